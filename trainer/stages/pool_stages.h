// The pool stages that need no LibTorch. Each function runs one rank until nothing is left.
#ifndef VLM_TRAINER_STAGES_POOL_STAGES_H_
#define VLM_TRAINER_STAGES_POOL_STAGES_H_

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/tokenizer/tokenizer.h"
#include "trainer/stage_context.h"

namespace vlm::trainer {

// Names of files inside artifacts that later stages read.
inline constexpr char kGeneratedFile[] = "generated.json";  // of generate: the shards by split
inline constexpr char kTokenizerFile[] = "tokenizer.json";  // of tokenizer, copied by index and training

absl::Status RunGenerate(const StageContext& context);
absl::Status RunTokenizer(const StageContext& context);
absl::Status RunIndex(const StageContext& context);

// Files of one split of a generate stage's artifact, absolute paths in shard order. NOT_FOUND names the split.
absl::StatusOr<std::vector<std::string>> GeneratedFiles(FileSystem* files, const InputArtifact& artifact,
                                                        const std::string& split);

struct ReadTokenizerFile {
  std::string json;
  std::unique_ptr<data::Tokenizer> tokenizer;
};
// tokenizer.json of an artifact's folder. INVALID_ARGUMENT names the file, the field and the token that is wrong.
absl::StatusOr<ReadTokenizerFile> ReadTokenizer(FileSystem* files, const std::string& folder);

// Writes, syncs and closes a new file.
absl::Status WriteSynced(FileSystem* files, const std::string& path, std::string_view contents);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_POOL_STAGES_H_
