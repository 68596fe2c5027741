// The loop of a pool's rank: lease shards, do them, commit each exactly once, finish the stage.
#ifndef VLM_TRAINER_POOL_H_
#define VLM_TRAINER_POOL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "trainer/stage_context.h"

namespace vlm::trainer {

struct ShardOutput {
  std::string file;  // relative to the stage's folder
  uint64_t bytes = 0, rows = 0;
  std::string digest;  // hex SHA-256 of the bytes
};

struct ArtifactFile {
  std::string name, contents;
};

// To be called whenever some work was done: by record, by batch, by merge. A rank that stays silent for minutes is
// taken for hung, however long a shard is. Cheap; from the thread of the stage's methods.
using Advance = std::function<void()>;

// One kind of pool stage. Methods are called from one thread.
class PoolStage {
 public:
  virtual ~PoolStage() = default;
  // Ending of a shard's file, with the dot.
  virtual std::string extension() const = 0;
  // Writes shard `shard` to `path` (its folder exists) and returns its number of rows. The file is synced and closed.
  virtual absl::StatusOr<uint64_t> WriteShard(uint32_t shard, const std::string& path, const Advance& advance) = 0;
  // From the winners' files (absolute paths, in shard order) to the files of the stage's artifact.
  virtual absl::StatusOr<std::vector<ArtifactFile>> Finish(const std::vector<ShardOutput>& winners,
                                                           const Advance& advance) = 0;
};

// Runs until nothing is left. A shard that fails is given back with its error; a failure of storage or of the
// service ends the rank.
absl::Status RunPool(const StageContext& context, PoolStage* stage);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_POOL_H_
