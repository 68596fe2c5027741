#include "checkpoint/core/catalog.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace vlm::checkpoint {
namespace {

template <typename Row>
absl::StatusOr<Row> ParseRow(std::string_view family, std::string_view value) {
  Row row;
  if (!row.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
    return absl::DataLossError(absl::StrCat("catalog row does not parse in family ", std::string(family)));
  }
  return row;
}

StepState& StepOf(const StepKey& key, Stages* stages) { return (*stages)[key.stage_uid].steps[{key.step, key.fence}]; }

Mutation Put(std::string_view family, std::string key, std::string value) {
  return {std::string(family), std::move(key), std::move(value)};
}

Mutation Erase(std::string_view family, std::string key) { return {std::string(family), std::move(key), std::nullopt}; }

}  // namespace

std::vector<v1::StepFile> StepState::Files() const {
  std::vector<v1::StepFile> files;
  for (const auto& [rank, part] : parts) files.insert(files.end(), part.files().begin(), part.files().end());
  return files;
}

absl::Status AddRowTo(std::string_view family, std::string_view key, std::string_view value, Stages* stages) {
  if (family == kStageFamily) {
    VLM_ASSIGN_OR_RETURN((*stages)[std::string(key)].row, ParseRow<v1::StageRow>(family, value));
  } else if (family == kStepFamily) {
    VLM_ASSIGN_OR_RETURN(const StepKey step, DecodeStepKey(key));
    VLM_ASSIGN_OR_RETURN(StepOf(step, stages).row, ParseRow<v1::StepRow>(family, value));
  } else if (family == kPartFamily) {
    VLM_ASSIGN_OR_RETURN(const PartKey part, DecodePartKey(key));
    VLM_ASSIGN_OR_RETURN(StepOf(part.step, stages).parts[part.rank], ParseRow<v1::PartRow>(family, value));
  } else if (family == kHoldFamily) {
    VLM_ASSIGN_OR_RETURN(const HoldKey hold, DecodeHoldKey(key));
    StepOf(hold.step, stages).holds.insert(hold.hold);
  } else if (family == kArtifactFamily) {
    if (key.size() <= kStageUidBytes) return absl::DataLossError("catalog has an artifact with an impossible key");
    const std::string stage_uid(key.substr(key.size() - kStageUidBytes));
    VLM_ASSIGN_OR_RETURN((*stages)[stage_uid].artifact, ParseRow<v1::ArtifactRow>(family, value));
  } else {
    return absl::InvalidArgumentError(absl::StrCat("catalog has no family ", std::string(family)));
  }
  return absl::OkStatus();
}

absl::Status CheckWhole(const Stages& stages) {
  for (const auto& [uid, stage] : stages) {
    if (uid.size() != kStageUidBytes || stage.row.min_fence() == 0) {
      return absl::DataLossError(
          absl::StrCat("catalog has steps of a stage it does not know: ", absl::BytesToHexString(uid)));
    }
    for (const auto& [key, step] : stage.steps) {
      if (step.row.state() == v1::STEP_STATE_UNSPECIFIED || step.row.folder().empty()) {
        return absl::DataLossError(absl::StrCat("catalog has parts or holds of a step it does not know: ", key.first,
                                                " at fence ", key.second, " of ", absl::BytesToHexString(uid)));
      }
    }
  }
  return absl::OkStatus();
}

Mutation PutStage(const std::string& stage_uid, const v1::StageRow& row) {
  return Put(kStageFamily, stage_uid, row.SerializeAsString());
}
Mutation PutStep(const StepKey& key, const v1::StepRow& row) {
  return Put(kStepFamily, EncodeStepKey(key), row.SerializeAsString());
}
Mutation PutPart(const StepKey& key, uint32_t rank, const v1::PartRow& row) {
  return Put(kPartFamily, EncodePartKey(key, rank), row.SerializeAsString());
}
Mutation PutHold(const StepKey& key, const Hold& hold) { return Put(kHoldFamily, EncodeHoldKey(key, hold), ""); }
Mutation EraseHold(const StepKey& key, const Hold& hold) { return Erase(kHoldFamily, EncodeHoldKey(key, hold)); }
Mutation PutArtifact(const std::string& stage_uid, const v1::ArtifactRow& row) {
  return Put(kArtifactFamily, EncodeArtifactKey(row.digest(), stage_uid), row.SerializeAsString());
}
Mutation EraseArtifact(const std::string& stage_uid, const v1::ArtifactRow& row) {
  return Erase(kArtifactFamily, EncodeArtifactKey(row.digest(), stage_uid));
}

std::vector<Mutation> EraseStep(const StepKey& key, const StepState& step) {
  std::vector<Mutation> mutations = {Erase(kStepFamily, EncodeStepKey(key))};
  for (const auto& [rank, part] : step.parts) mutations.push_back(Erase(kPartFamily, EncodePartKey(key, rank)));
  for (const Hold& hold : step.holds) mutations.push_back(EraseHold(key, hold));
  return mutations;
}

const std::pair<const std::pair<uint64_t, uint64_t>, StepState>* NewestComplete(const StageState& stage) {
  for (auto step = stage.steps.rbegin(); step != stage.steps.rend(); ++step) {
    if (step->second.row.state() == v1::STEP_STATE_COMPLETE) return &*step;
  }
  return nullptr;
}

v1::Step DescribeStep(const std::string& stage_uid, const StageState& stage, const StepKey& key, const StepState& step,
                      bool with_files) {
  v1::Step described;
  described.set_stage_uid(stage_uid);
  described.set_job_id(stage.row.job_id());
  described.set_stage(stage.row.stage());
  described.set_step(key.step);
  described.set_fence(key.fence);
  described.set_state(step.row.state());
  described.set_folder(step.row.folder());
  described.set_bytes(step.row.bytes());
  described.set_world(step.row.world());
  described.set_parent_step(step.row.parent_step());
  described.set_final(step.row.final());
  if (with_files) {
    for (v1::StepFile& file : step.Files()) *described.add_files() = std::move(file);
  }
  for (const Hold& hold : step.holds) described.add_holds(HoldName(hold));
  if (step.row.has_committed_at()) *described.mutable_committed_at() = step.row.committed_at();
  if (step.row.has_verified_at()) *described.mutable_verified_at() = step.row.verified_at();
  described.set_damage(step.row.damage());
  return described;
}

std::string DescribeCommitted(const StageState& stage, const StepKey& key, const StepState& step) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const v1::StepFile& file : step.Files()) {
    files.push_back({{"name", file.name()}, {"bytes", file.bytes()}, {"digest", file.digest()}});
  }
  const absl::Time committed =
      absl::FromUnixSeconds(step.row.committed_at().seconds()) + absl::Nanoseconds(step.row.committed_at().nanos());
  const nlohmann::ordered_json text = {
      {"format", 1},
      {"stage_uid", absl::BytesToHexString(key.stage_uid)},
      {"job_id", stage.row.job_id()},
      {"stage", stage.row.stage()},
      {"step", key.step},
      {"fence", key.fence},
      {"world", step.row.world()},
      {"parent_step", step.row.parent_step()},
      {"final", step.row.final()},
      {"cursor", absl::BytesToHexString(step.row.cursor())},
      {"committed_at", absl::FormatTime(absl::RFC3339_full, committed, absl::UTCTimeZone())},
      {"bytes", step.row.bytes()},
      {"files", files},
  };
  return text.dump(2) + "\n";
}

}  // namespace vlm::checkpoint
