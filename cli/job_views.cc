#include "cli/job_views.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "cli/human_units.h"
#include "cli/stage_choice.h"
#include "cli/table.h"

namespace vlm::cli {
namespace {

// `name` is "JOB_STATE_RUNNING", or empty for a value of a later version.
std::string WordOf(const std::string& name, size_t prefix, int number) {
  return name.empty() ? absl::StrCat(number) : absl::AsciiStrToLower(name.substr(prefix));
}

// "key:     value" lines, the values in one column.
class Fields {
 public:
  void Add(const std::string& key, const std::string& value) {
    if (value.empty()) return;
    rows_.push_back({key, Printable(value)});
  }
  std::string ToString() const {
    size_t width = 0;
    for (const auto& [key, value] : rows_) width = std::max(width, key.size());
    std::string text;
    for (const auto& [key, value] : rows_) absl::StrAppend(&text, PadTo(key, width + 2), value, "\n");
    return text;
  }

 private:
  std::vector<std::pair<std::string, std::string>> rows_;
};

std::string Clock(absl::Time time, const ViewOptions& options) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", time, options.time_zone);
}

std::string JobDuration(const v1::Job& job, absl::Time now) {
  const absl::Time end = job.has_ended_at() ? FromProto(job.ended_at()) : now;
  return job.has_submitted_at() ? HumanDuration(end - FromProto(job.submitted_at())) : "";
}

std::string StageTable(const v1::Job& job, const ViewOptions& options) {
  Table table({"STAGE", "KIND", "STATE", "DONE", "LOSS", "RANKS", "RESTARTS", "TIME", "LEFT", "REASON"});
  for (const v1::Stage& stage : job.stages()) {
    const v1::Progress& progress = stage.progress();
    table.Add({stage.name(), stage.kind(), Word(stage.state()), DoneText(stage),
               progress.loss() != 0 ? HumanLoss(progress.loss()) : "",
               stage.world() > 0 ? absl::StrCat(stage.world()) : "",
               stage.restarts() > 0 ? absl::StrCat(stage.restarts()) : "", DurationText(stage, options.now),
               progress.has_left() ? HumanDuration(FromProto(progress.left())) : "", stage.reason()});
  }
  return table.empty() ? "" : table.ToString(options.columns);
}

std::string HexOf(const std::string& bytes) {
  std::string hex;
  for (const char byte : bytes) absl::StrAppend(&hex, absl::Hex(static_cast<unsigned char>(byte), absl::kZeroPad2));
  return hex;
}

std::string StageDescription(const v1::Stage& stage, const ViewOptions& options) {
  Fields fields;
  fields.Add("  state", absl::StrCat(Word(stage.state()), stage.reason().empty() ? "" : ": ", stage.reason()));
  std::string needs;
  for (const std::string& need : stage.needs()) absl::StrAppend(&needs, needs.empty() ? "" : ", ", need);
  fields.Add("  needs", needs);
  fields.Add("  done", DoneText(stage));
  fields.Add("  time", DurationText(stage, options.now));
  if (stage.restarts() > 0) fields.Add("  restarts", absl::StrCat(stage.restarts()));
  fields.Add("  artifact", stage.artifact_folder());
  fields.Add("  digest", stage.artifact_digest());
  fields.Add("  uid", HexOf(stage.stage_uid()));
  if (stage.fence() > 0) {
    fields.Add("  attempt", absl::StrCat(stage.fence(), ", ", Word(stage.attempt_state()), ", ", stage.world(),
                                         stage.world() == 1 ? " rank" : " ranks"));
  }
  std::string text =
      absl::StrCat(Printable(absl::StrCat("stage ", stage.name(), " (", stage.kind(), ")")), "\n", fields.ToString());
  if (stage.ranks().empty()) return text;
  Table table({"    RANK", "NODE", "PHASE", "EXIT", "FAILURE", "MESSAGE"});
  for (const v1::RankPlacement& rank : stage.ranks()) {
    const bool failed = rank.failure() != v1::FAILURE_CLASS_UNSPECIFIED;
    table.Add({absl::StrCat("    ", rank.rank()), rank.node_id(), rank.phase(),
               rank.phase() == "exited" ? absl::StrCat(rank.exit_code()) : "", failed ? Word(rank.failure()) : "",
               rank.message()});
  }
  return text + table.ToString(options.columns);
}

std::string Timeline(const std::vector<v1::Event>& events, const ViewOptions& options) {
  Table table({"TIME", "STAGE", "ATTEMPT", "EVENT", "REASON"});
  for (const v1::Event& event : events) {
    table.Add({Clock(FromProto(event.at()), options), event.stage(),
               event.fence() > 0 ? absl::StrCat(event.fence()) : "", event.kind(), event.reason()});
  }
  return table.empty() ? "no events\n" : table.ToString(options.columns);
}

}  // namespace

std::string Word(v1::JobState state) { return WordOf(v1::JobState_Name(state), sizeof("JOB_STATE"), state); }
std::string Word(v1::StageState state) { return WordOf(v1::StageState_Name(state), sizeof("STAGE_STATE"), state); }
std::string Word(v1::AttemptState state) {
  return WordOf(v1::AttemptState_Name(state), sizeof("ATTEMPT_STATE"), state);
}
std::string Word(v1::StepState state) { return WordOf(v1::StepState_Name(state), sizeof("STEP_STATE"), state); }
std::string Word(v1::NodeState state) { return WordOf(v1::NodeState_Name(state), sizeof("NODE_STATE"), state); }
std::string Word(v1::DeviceKind kind) { return WordOf(v1::DeviceKind_Name(kind), sizeof("DEVICE_KIND"), kind); }
std::string Word(v1::FailureClass failure) {
  return WordOf(v1::FailureClass_Name(failure), sizeof("FAILURE_CLASS"), failure);
}

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}

bool IsFinal(v1::StageState state) {
  return state == v1::STAGE_STATE_SUCCEEDED || state == v1::STAGE_STATE_REUSED || state == v1::STAGE_STATE_FAILED ||
         state == v1::STAGE_STATE_UPSTREAM_FAILED || state == v1::STAGE_STATE_CANCELLED;
}

ExitCode ExitCodeOfJob(v1::JobState state) {
  VLM_CHECK(IsFinal(state), "the job has not ended");
  if (state == v1::JOB_STATE_SUCCEEDED) return ExitCode::kOk;
  return state == v1::JOB_STATE_FAILED ? ExitCode::kJobFailed : ExitCode::kJobCancelled;
}

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

bool IsTraining(const std::string& stage_kind) {
  return stage_kind == "pretrain" || stage_kind == "align" || stage_kind == "sft";
}

std::string DoneText(const v1::Stage& stage) {
  const v1::Progress& progress = stage.progress();
  if (progress.total() == 0 && progress.done() == 0) return "";
  const std::string total = progress.total() > 0 ? absl::StrCat(progress.total()) : "?";
  if (IsTraining(stage.kind())) return absl::StrCat("step ", progress.done(), "/", total);
  return absl::StrCat(progress.done(), "/", total, progress.total() == 1 ? " shard" : " shards");
}

std::string DurationText(const v1::Stage& stage, absl::Time now) {
  if (!stage.has_started_at()) return "";
  const absl::Time end = stage.has_ended_at() ? FromProto(stage.ended_at()) : now;
  return HumanDuration(end - FromProto(stage.started_at()));
}

int Percent(const v1::Progress& progress) {
  if (progress.total() == 0) return -1;
  const double share = static_cast<double>(progress.done()) / static_cast<double>(progress.total());
  return static_cast<int>(100 * std::clamp(share, 0.0, 1.0));
}

std::string JobListText(const v1::ListJobsResponse& jobs, const ViewOptions& options) {
  Table table({"JOB", "NAME", "STATE", "SUBMITTED", "TIME", "REASON"});
  for (const v1::Job& job : jobs.jobs()) {
    table.Add({job.job_id(), job.name(), Word(job.state()),
               job.has_submitted_at() ? HumanAgo(FromProto(job.submitted_at()), options.now) : "",
               JobDuration(job, options.now), job.reason()});
  }
  return table.empty() ? "no jobs; `vlmctl submit FILE` starts one\n" : table.ToString(options.columns);
}

std::string JobText(const v1::Job& job, const ViewOptions& options) {
  Fields fields;
  fields.Add("job", job.job_id());
  fields.Add("name", job.name());
  fields.Add("state", Word(job.state()));
  fields.Add("reason", job.reason());
  fields.Add("next", job.next_action());
  if (job.has_submitted_at()) {
    const absl::Time at = FromProto(job.submitted_at());
    fields.Add("submitted", absl::StrCat(Clock(at, options), ", ", HumanAgo(at, options.now)));
  }
  if (job.has_ended_at()) {
    const absl::Time at = FromProto(job.ended_at());
    fields.Add("ended", absl::StrCat(Clock(at, options), ", ", HumanAgo(at, options.now)));
  }
  fields.Add("time", JobDuration(job, options.now));
  fields.Add("artifacts", job.artifacts());
  return absl::StrCat(fields.ToString(), "\n", StageTable(job, options));
}

std::string JobDescription(const v1::Job& job, const std::vector<v1::Event>& events, const ViewOptions& options) {
  std::string text = JobText(job, options);
  for (const v1::Stage& stage : job.stages()) absl::StrAppend(&text, "\n", StageDescription(stage, options));
  absl::StrAppend(&text, "\ntimeline\n", Timeline(events, options));
  return text;
}

std::string NodeListText(const v1::ListNodesResponse& nodes, const ViewOptions& options) {
  Table table({"NODE", "HOST", "STATE", "DEVICES", "FREE", "DISK FREE", "LAST BEAT", "BUILD", "ATTEMPTS"});
  for (const v1::Node& node : nodes.nodes()) {
    const std::string kind = node.devices().empty() ? "" : Word(node.devices(0).kind());
    std::string attempts;
    for (const std::string& attempt : node.attempts())
      absl::StrAppend(&attempts, attempts.empty() ? "" : ", ", attempt);
    table.Add({node.node_id(), node.hostname(), Word(node.state()), absl::StrCat(node.devices_size(), " ", kind),
               absl::StrCat(node.slots_free()), HumanBytes(node.disk_free_bytes()),
               node.has_last_beat() ? HumanAgo(FromProto(node.last_beat()), options.now) : "", node.build(), attempts});
  }
  return table.empty() ? "no workers; `vlm-worker` starts one\n" : table.ToString(options.columns);
}

std::string StepListText(const v1::ListStepsResponse& steps, const ViewOptions& options) {
  Table table({"STAGE", "STEP", "ATTEMPT", "STATE", "SIZE", "RANKS", "COMMITTED", "HOLDS", "FOLDER"});
  for (const v1::Step& step : steps.steps()) {
    std::string holds;
    for (const std::string& hold : step.holds()) absl::StrAppend(&holds, holds.empty() ? "" : ", ", hold);
    table.Add({step.stage(), absl::StrCat(step.step(), step.final() ? " (final)" : ""), absl::StrCat(step.fence()),
               Word(step.state()), HumanBytes(step.bytes()), absl::StrCat(step.world()),
               step.has_committed_at() ? HumanAgo(FromProto(step.committed_at()), options.now) : "", holds,
               step.folder()});
  }
  return table.empty() ? "no checkpoints yet\n" : table.ToString(options.columns);
}

std::string StepText(const v1::Step& step, const ViewOptions& options) {
  Fields fields;
  fields.Add("job", step.job_id());
  fields.Add("stage", step.stage());
  fields.Add("step", absl::StrCat(step.step(), step.final() ? " (final)" : ""));
  fields.Add("attempt", absl::StrCat(step.fence()));
  fields.Add("state", Word(step.state()));
  fields.Add("damage", step.damage());
  fields.Add("folder", step.folder());
  fields.Add("size", HumanBytes(step.bytes()));
  fields.Add("ranks", absl::StrCat(step.world()));
  if (step.parent_step() > 0) fields.Add("parent", absl::StrCat("step ", step.parent_step()));
  std::string holds;
  for (const std::string& hold : step.holds()) absl::StrAppend(&holds, holds.empty() ? "" : ", ", hold);
  fields.Add("holds", holds);
  if (step.has_committed_at()) {
    const absl::Time at = FromProto(step.committed_at());
    fields.Add("committed", absl::StrCat(Clock(at, options), ", ", HumanAgo(at, options.now)));
  }
  if (step.has_verified_at()) {
    const absl::Time at = FromProto(step.verified_at());
    fields.Add("verified", absl::StrCat(Clock(at, options), ", ", HumanAgo(at, options.now)));
  }
  std::string text = fields.ToString();
  if (step.files().empty()) return text;
  Table table({"FILE", "SIZE", "DIGEST"});
  for (const v1::StepFile& file : step.files()) table.Add({file.name(), HumanBytes(file.bytes()), file.digest()});
  return absl::StrCat(text, "\n", table.ToString(options.columns));
}

std::vector<std::string> NextCommands(const v1::Job& job) {
  const std::string& id = job.job_id();
  if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    std::vector<std::string> next;
    if (const absl::StatusOr<const v1::Stage*> model = LastModelStage(job); model.ok()) {
      next.push_back(absl::StrCat("vlmctl chat --job ", id, " --image FILE --prompt \"...\"   # ask the model"));
      next.push_back(absl::StrCat("vlmctl checkpoint export ", id, " ", (*model)->name(),
                                  " --to FOLDER   # as a Hugging Face folder"));
    }
    next.push_back(absl::StrCat("vlmctl checkpoint list ", id, "   # what was saved"));
    return next;
  }
  if (job.state() == v1::JOB_STATE_FAILED) {
    std::string stage;
    for (const v1::Stage& candidate : job.stages()) {
      if (candidate.state() == v1::STAGE_STATE_FAILED && stage.empty()) stage = " --stage " + candidate.name();
    }
    return {absl::StrCat("vlmctl logs ", id, stage, "   # what its ranks wrote"),
            absl::StrCat("vlmctl describe ", id, "   # what happened when"),
            absl::StrCat("vlmctl retry ", id, "   # again, keeping the stages that succeeded")};
  }
  if (job.state() == v1::JOB_STATE_CANCELLED) {
    return {absl::StrCat("vlmctl describe ", id, "   # what happened when")};
  }
  return {};
}

}  // namespace vlm::cli
