#include "checkpoint/core/catalog.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "checkpoint/core/step_rules.h"

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

// Rows must be such as requests make them: an effect takes its folder and files from here without asking again.
absl::Status CheckRegistration(const std::string& uid, const StageState& stage) {
  v1::OpenAttemptRequest request;
  request.set_stage_uid(uid);
  request.set_fence(stage.row.min_fence());
  request.mutable_stage()->set_job_id(stage.row.job_id());
  request.mutable_stage()->set_stage(stage.row.stage());
  request.mutable_stage()->set_root(stage.row.root());
  if (absl::Status status = CheckRequest(request); !status.ok()) {
    return absl::DataLossError(absl::StrCat("catalog has a stage that no request has made: ", status.message(), "; of ",
                                            absl::BytesToHexString(uid)));
  }
  if (!stage.artifact.has_value()) return absl::OkStatus();
  const auto step = stage.steps.find({stage.artifact->step(), stage.artifact->fence()});
  if (step == stage.steps.end() || step->second.row.folder() != stage.artifact->folder()) {
    return absl::DataLossError(
        absl::StrCat("catalog has an artifact of a step it does not know: ", stage.artifact->step(), " at fence ",
                     stage.artifact->fence(), " of ", absl::BytesToHexString(uid)));
  }
  return absl::OkStatus();
}

absl::Status CheckStep(const StageState& stage, const StepKey& key, const StepState& step) {
  v1::BeginStepRequest request;
  request.set_stage_uid(key.stage_uid);
  request.set_step(key.step);
  request.set_world(step.row.world());
  request.set_parent_step(step.row.parent_step());
  request.set_cursor(step.row.cursor());
  VLM_RETURN_IF_ERROR(CheckRequest(request));
  if (!v1::StepState_IsValid(step.row.state())) return absl::DataLossError("its state is of no known version");
  if (key.fence == 0 || key.fence > stage.row.min_fence()) return absl::DataLossError("its attempt was never opened");
  if (step.row.folder() != StepFolder(stage.row.root(), stage.row.job_id(), stage.row.stage(), key)) {
    return absl::DataLossError(absl::StrCat("its folder is not its own, ", step.row.folder()));
  }
  for (const auto& [rank, part] : step.parts) {
    if (rank >= static_cast<uint32_t>(step.row.world())) {
      return absl::DataLossError(absl::StrCat("rank ", rank, " of a world of ", step.row.world(), " has a part"));
    }
    VLM_RETURN_IF_ERROR(CheckFiles(part.files()));
  }
  const bool whole = step.row.state() == v1::STEP_STATE_COMPLETE || step.row.state() == v1::STEP_STATE_DAMAGED;
  if (whole && !step.has_all_parts()) return absl::DataLossError("it is complete without every rank's part");
  return absl::OkStatus();
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
    VLM_ASSIGN_OR_RETURN(v1::ArtifactRow row, ParseRow<v1::ArtifactRow>(family, value));
    std::optional<v1::ArtifactRow>& artifact = (*stages)[stage_uid].artifact;
    if (artifact.has_value() || key != EncodeArtifactKey(row.digest(), stage_uid)) {
      return absl::DataLossError(absl::StrCat("catalog has two artifacts of a stage, or one under another's digest: ",
                                              absl::BytesToHexString(stage_uid)));
    }
    artifact = std::move(row);
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
    VLM_RETURN_IF_ERROR(CheckRegistration(uid, stage));
    for (const auto& [key, step] : stage.steps) {
      const auto name = [&] {
        return absl::StrCat(key.first, " at fence ", key.second, " of ", absl::BytesToHexString(uid));
      };
      if (step.row.state() == v1::STEP_STATE_UNSPECIFIED || step.row.folder().empty()) {
        return absl::DataLossError(absl::StrCat("catalog has parts or holds of a step it does not know: ", name()));
      }
      if (absl::Status status = CheckStep(stage, {uid, key.first, key.second}, step); !status.ok()) {
        return absl::DataLossError(
            absl::StrCat("catalog has a step that no request has made: ", status.message(), "; step ", name()));
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
