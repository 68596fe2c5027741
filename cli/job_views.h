// Jobs, stages, steps and nodes as text for people. Pure.
#ifndef VLM_CLI_JOB_VIEWS_H_
#define VLM_CLI_JOB_VIEWS_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cli/exit_code.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::cli {

struct ViewOptions {
  absl::Time now;  // for relative times
  absl::TimeZone time_zone = absl::UTCTimeZone();
  int columns = 0;  // of the terminal; 0: no limit
};

// "running", "upstream_failed", "worker_lost": the enum's name without its prefix, in lower case. A value this build
// does not know: its number.
std::string Word(v1::JobState state);
std::string Word(v1::StageState state);
std::string Word(v1::AttemptState state);
std::string Word(v1::StepState state);
std::string Word(v1::NodeState state);
std::string Word(v1::DeviceKind kind);
std::string Word(v1::FailureClass failure);

bool IsFinal(v1::JobState state);
bool IsFinal(v1::StageState state);
// kOk, kJobFailed or kJobCancelled. Requires a final state.
ExitCode ExitCodeOfJob(v1::JobState state);

absl::Time FromProto(const google::protobuf::Timestamp& time);
absl::Duration FromProto(const google::protobuf::Duration& duration);

// Steps for training, shards for the rest.
bool IsTraining(const std::string& stage_kind);
// "step 120/800", "3/8 shards", "" where nothing is known.
std::string DoneText(const v1::Stage& stage);
// Of the time the stage has run or ran; "" before its start.
std::string DurationText(const v1::Stage& stage, absl::Time now);
// Whole percent; -1 when the total is unknown.
int Percent(const v1::Progress& progress);

std::string JobListText(const v1::ListJobsResponse& jobs, const ViewOptions& options);
std::string JobText(const v1::Job& job, const ViewOptions& options);
// JobText, then each stage's attempt with its ranks, then the events.
std::string JobDescription(const v1::Job& job, const std::vector<v1::Event>& events, const ViewOptions& options);
std::string NodeListText(const v1::ListNodesResponse& nodes, const ViewOptions& options);
std::string StepListText(const v1::ListStepsResponse& steps, const ViewOptions& options);
std::string StepText(const v1::Step& step, const ViewOptions& options);

// What to type next for a job that has ended, one command each with what it does. Empty while it runs.
std::vector<std::string> NextCommands(const v1::Job& job);

}  // namespace vlm::cli

#endif  // VLM_CLI_JOB_VIEWS_H_
