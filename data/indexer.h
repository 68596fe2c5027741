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

// Indexes one file for `source`. A sample that does not parse, has no target or keeps none within the context is
// rejected: counted, with file, line and reason. Pictures are checked by their headers, not decoded.
// Fails only when the file itself cannot be read as a whole (see ListRecords).
absl::StatusOr<FileIndex> IndexFile(FileSystem* files, const std::string& path, const std::string& source,
                                    const RenderSettings& render, const ChatTemplate& chat_template);

// Every text of a file for tokenizer training: plain texts, and of messages the role, which a template writes out, and
// the contents.
absl::Status ForEachText(FileSystem* files, const std::string& path,
                         const std::function<void(std::string_view)>& visit);

// Hex SHA-256 of a file's bytes.
absl::StatusOr<std::string> FileDigest(const ReadableFile& file);

}  // namespace vlm::data

#endif  // VLM_DATA_INDEXER_H_
