// Indexing: one pass over a data file that renders every sample and keeps only its place and lengths.
#ifndef VLM_DATA_INDEXER_H_
#define VLM_DATA_INDEXER_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "data/chat_template.h"
#include "data/manifest.h"

namespace vlm::data {

struct DataFile {
  std::string path, source;
  uint64_t ordinal = 0;  // place in the list of all files
};

struct IndexOptions {
  RenderSettings render;
  BadPicturePolicy on_bad_picture = BadPicturePolicy::kFail;
};

// Indexes one file. A record that does not parse, has no target or keeps none within the context is no sample: it is
// counted and named in the quarantine list. Every picture of a sample is decoded once, within DecodeLimits' defaults,
// those of training: a header alone may be sound. What does not decode is counted and named too, and by the policy its
// sample is left out (drop) or kept with the picture marked (placeholder; with fail likewise: the caller ends the stage
// by what was counted, and can name every bad picture of the file).
// `advance` is called after every record and every block of the file's digest. Fails only when the file itself cannot
// be read as a whole (see ListRecords).
absl::StatusOr<FileIndex> IndexFile(FileSystem* files, const DataFile& data_file, const IndexOptions& options,
                                    const ChatTemplate& chat_template, const std::function<void()>& advance);

// Every text of a file for tokenizer training: plain texts, and of messages the role, which a template writes out, and
// the contents.
absl::Status ForEachText(FileSystem* files, const std::string& path,
                         const std::function<void(std::string_view)>& visit);

// Hex SHA-256 of a file's bytes. `advance` is called after every block.
absl::StatusOr<std::string> FileDigest(const ReadableFile& file, const std::function<void()>& advance);

}  // namespace vlm::data

#endif  // VLM_DATA_INDEXER_H_
