// The document made from the tables.
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/transition_table.h"

namespace vlm::coordinator {
namespace {

std::string Name(v1::JobState state) { return absl::AsciiStrToUpper(Word(state)); }
std::string Name(v1::StageState state) { return absl::AsciiStrToUpper(Word(state)); }
std::string Name(v1::AttemptState state) { return absl::AsciiStrToUpper(Word(state)); }
std::string Name(v1::NodeState state) { return absl::AsciiStrToUpper(Word(state)); }
std::string Name(RankState state) {
  switch (state) {
    case RankState::kAssigned:
      return "ASSIGNED";
    case RankState::kReady:
      return "READY";
    case RankState::kEnded:
      return "ENDED";
  }
  return "?";
}

std::string Name(JobEvent event) {
  switch (event) {
    case JobEvent::kAttemptOpened:
      return "attempt opened";
    case JobEvent::kCancelled:
      return "cancelled";
    case JobEvent::kLastAttemptEnded:
      return "nothing left to stop";
    case JobEvent::kAllSucceeded:
      return "all stages good";
    case JobEvent::kFailed:
      return "failed";
    case JobEvent::kRetried:
      return "retry";
  }
  return "?";
}
std::string Name(StageEvent event) {
  switch (event) {
    case StageEvent::kReuseFound:
      return "reuse found";
    case StageEvent::kReuseMissed:
      return "nothing to reuse";
    case StageEvent::kParentFailed:
      return "parent failed";
    case StageEvent::kCapacity:
      return "capacity";
    case StageEvent::kAttemptSucceeded:
      return "attempt succeeded";
    case StageEvent::kFailedRetry:
      return "failed, retry";
    case StageEvent::kFailedFinal:
      return "failed, final";
    case StageEvent::kBackoffOver:
      return "backoff over";
    case StageEvent::kPublished:
      return "published";
    case StageEvent::kCancelled:
      return "cancelled";
    case StageEvent::kRetried:
      return "retry";
  }
  return "?";
}
std::string Name(AttemptEvent event) {
  switch (event) {
    case AttemptEvent::kOpened:
      return "opened";
    case AttemptEvent::kFoundComplete:
      return "found complete";
    case AttemptEvent::kAllReady:
      return "ready";
    case AttemptEvent::kAllSucceeded:
      return "all succeeded";
    case AttemptEvent::kStop:
      return "stop";
    case AttemptEvent::kAllReaped:
      return "all reaped";
  }
  return "?";
}
std::string Name(RankEvent event) {
  switch (event) {
    case RankEvent::kEndpoint:
      return "endpoint";
    case RankEvent::kResult:
      return "result";
    case RankEvent::kWorkerGone:
      return "worker gone";
  }
  return "?";
}
std::string Name(WorkerEvent event) {
  switch (event) {
    case WorkerEvent::kHello:
      return "hello";
    case WorkerEvent::kStreamBroken:
      return "stream broken";
    case WorkerEvent::kLeaseOver:
      return "lease over";
    case WorkerEvent::kWindowOver:
      return "window over";
  }
  return "?";
}

template <typename State, typename Event>
void AppendTable(std::string_view title, std::span<const Transition<State, Event>> table, std::string* text) {
  absl::StrAppend(text, "\n## ", std::string(title), "\n\n| state | event | next | when |\n|---|---|---|---|\n");
  for (const auto& row : table) {
    absl::StrAppend(text, "| ", Name(row.from), " | ", Name(row.event), " | ", Name(row.to), " | ",
                    std::string(row.why), " |\n");
  }
}

std::string Name(CommandEffect effect) {
  switch (effect) {
    case CommandEffect::kNothing:
      return "-";
    case CommandEffect::kCancelNow:
      return "CANCELLED";
    case CommandEffect::kStopAttempt:
      return "attempt STOPPING, then CANCELLED";
    case CommandEffect::kCancelAfterPublishing:
      return "finish publishing, then CANCELLED";
    case CommandEffect::kRequeue:
      return "QUEUED, fresh budget";
    case CommandEffect::kUnblock:
      return "BLOCKED";
  }
  return "?";
}

}  // namespace

std::string StateMachineMarkdown() {
  std::string text =
      "# State machine\n\n"
      "Generated from the tables of `coordinator/core/transition_table.cc`; a test compares. An event that a state's\n"
      "rows do not name cannot happen there.\n";
  AppendTable("Job", JobTransitions(), &text);
  AppendTable("Stage", StageTransitions(), &text);
  AppendTable("Attempt", AttemptTransitions(), &text);
  AppendTable("Rank", RankTransitions(), &text);
  AppendTable("Worker", WorkerTransitions(), &text);
  absl::StrAppend(&text, "\n## Commands\n\n| stage | cancel | retry |\n|---|---|---|\n");
  for (int number = v1::STAGE_STATE_BLOCKED; number <= v1::StageState_MAX; ++number) {
    const auto state = static_cast<v1::StageState>(number);
    absl::StrAppend(&text, "| ", Name(state), " | ", Name(OnCancel(state)), " | ", Name(OnRetry(state)), " |\n");
  }
  return text;
}

}  // namespace vlm::coordinator
