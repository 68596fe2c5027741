// The catalog's rows in memory, and the mutations that keep the store equal to them.
#ifndef VLM_CHECKPOINT_CORE_CATALOG_H_
#define VLM_CHECKPOINT_CORE_CATALOG_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/key_value.h"
#include "base/status.h"
#include "checkpoint/core/catalog_keys.h"
#include "vlm/v1/catalog.pb.h"
#include "vlm/v1/checkpoint.pb.h"

namespace vlm::checkpoint {

// Calls that wait for an effect on a step; lost with the process, callers then repeat them.
struct WaitingCalls {
  std::vector<uint64_t> begin, part, verify, artifact, remove;
};

struct StepState {
  v1::StepRow row;
  std::map<uint32_t, v1::PartRow> parts;
  std::set<Hold> holds;
  // Not stored:
  bool folder_made = false;      // in this process's life
  bool checking = false;         // an effect of that kind is under way
  bool verifying = false;        // for a person
  bool verifying_first = false;  // for a stage: before it is published or reused
  std::string artifact_kind;     // of the waiting CommitArtifact calls
  WaitingCalls waiting;

  bool has_all_parts() const { return parts.size() == static_cast<size_t>(row.world()); }
  std::vector<v1::StepFile> Files() const;  // by rank, then as reported
};

struct StageState {
  v1::StageRow row;
  std::map<std::pair<uint64_t, uint64_t>, StepState> steps;  // (step, fence)
  std::optional<v1::ArtifactRow> artifact;
};

using Stages = std::map<std::string, StageState>;  // by stage_uid

// Parses one stored row into `stages`. Rows may come in any order; CheckWhole tells what is missing after the last.
absl::Status AddRowTo(std::string_view family, std::string_view key, std::string_view value, Stages* stages);
// DATA_LOSS when a row hangs in the air (a step without its stage, a part or hold without its step) or says what no
// request makes it say: a folder that is not the step's own, a complete step without all its parts.
absl::Status CheckWhole(const Stages& stages);

Mutation PutStage(const std::string& stage_uid, const v1::StageRow& row);
Mutation PutStep(const StepKey& key, const v1::StepRow& row);
Mutation PutPart(const StepKey& key, uint32_t rank, const v1::PartRow& row);
Mutation PutHold(const StepKey& key, const Hold& hold);
Mutation EraseHold(const StepKey& key, const Hold& hold);
Mutation PutArtifact(const std::string& stage_uid, const v1::ArtifactRow& row);
Mutation EraseArtifact(const std::string& stage_uid, const v1::ArtifactRow& row);
// The step's row, its parts and its holds.
std::vector<Mutation> EraseStep(const StepKey& key, const StepState& step);

// The newest COMPLETE step, or null.
const std::pair<const std::pair<uint64_t, uint64_t>, StepState>* NewestComplete(const StageState& stage);

v1::Step DescribeStep(const std::string& stage_uid, const StageState& stage, const StepKey& key, const StepState& step,
                      bool with_files);

// The text of COMMITTED.json.
std::string DescribeCommitted(const StageState& stage, const StepKey& key, const StepState& step);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CORE_CATALOG_H_
