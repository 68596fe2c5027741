// Files of records: WebDataset tar shards and JSON lines, seen as a list of places to read.
#ifndef VLM_DATA_RECORD_FILE_H_
#define VLM_DATA_RECORD_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"

namespace vlm::data {

struct Span {
  uint64_t offset = 0;
  uint32_t bytes = 0;
};

// Where one record's JSON and pictures lie in its file. JSON lines hold no pictures.
struct RecordPlace {
  Span json;
  std::vector<Span> images;
  uint64_t line = 0;                 // of a JSON-lines file, from 1; of a tar, the record's number from 1
  std::string key;                   // of a tar: the members' name up to the ending
  std::vector<std::string> endings;  // of `images`, without the dot

  // The name of the tar's member that holds the JSON, or picture `image`; empty for JSON lines.
  std::string JsonMember() const { return key.empty() ? key : key + ".json"; }
  std::string ImageMember(size_t image) const { return key + "." + endings[image]; }
};

// Lists the records of a .tar or .jsonl file in file order, without keeping contents. INVALID_ARGUMENT or
// DATA_LOSS names the file and the offset or line: cut short, damaged, a sample without .json, an unknown
// ending.
absl::StatusOr<std::vector<RecordPlace>> ListRecords(const std::string& path, const ReadableFile& file);

absl::StatusOr<std::string> ReadSpan(const ReadableFile& file, const Span& span);

// Files that match `pattern` (`*` and `?` within one folder level), sorted. A relative pattern starts at the first of
// `roots` and is looked for nowhere else; an absolute one must lie below any of them. A symbolic link is followed as
// long as its target lies below one of them too. FAILED_PRECONDITION without roots; NOT_FOUND when nothing matches or
// a link leads nowhere; PERMISSION_DENIED for a pattern or a link that leaves the roots, and for ".."; errors of List.
absl::StatusOr<std::vector<std::string>> ResolvePattern(FileSystem* files, const std::vector<std::string>& roots,
                                                        const std::string& pattern);

}  // namespace vlm::data

#endif  // VLM_DATA_RECORD_FILE_H_
