#include "worker/core/exit_class.h"

#include <csignal>
#include <string_view>

namespace vlm::worker {
namespace {

struct ExitCodeRow {
  int exit_code;
  v1::FailureClass failure;
  std::string_view meaning;
};
// docs: exit codes of vlm-trainer, after sysexits.h where it has a word.
constexpr ExitCodeRow kExitCodes[] = {
    {64, v1::FAILURE_CLASS_USER_ERROR, "user error"},
    {65, v1::FAILURE_CLASS_BAD_DATA, "bad data"},
    {66, v1::FAILURE_CLASS_DAMAGED_CHECKPOINT, "damaged checkpoint"},
    {69, v1::FAILURE_CLASS_PEER_LOST, "peer lost"},
    {70, v1::FAILURE_CLASS_CRASH, "crash"},
    {74, v1::FAILURE_CLASS_STORAGE, "storage"},
    {78, v1::FAILURE_CLASS_INCOMPATIBLE, "incompatible"},
    {79, v1::FAILURE_CLASS_NUMERIC, "numeric"},
    {80, v1::FAILURE_CLASS_OUT_OF_MEMORY, "out of memory"},
};

struct EndingRow {
  Ending ending;
  v1::FailureClass failure;
  std::string_view reason;
};
constexpr EndingRow kEndings[] = {
    {Ending::kOrdered, v1::FAILURE_CLASS_PEER_LOST, "stopped by order of the coordinator"},
    {Ending::kSuperseded, v1::FAILURE_CLASS_PEER_LOST, "its attempt is no longer current"},
    {Ending::kOrphaned, v1::FAILURE_CLASS_WORKER_LOST, "no coordinator for the orphan grace"},
    {Ending::kUnattached, v1::FAILURE_CLASS_START_TIMEOUT, "it never attached to its worker"},
    {Ending::kFrozen, v1::FAILURE_CLASS_HANG, "its beats stopped"},
    {Ending::kShutdown, v1::FAILURE_CLASS_WORKER_LOST, "its worker was told to end"},
};

const ExitCodeRow* FindCode(int exit_code) {
  for (const ExitCodeRow& row : kExitCodes) {
    if (row.exit_code == exit_code) return &row;
  }
  return nullptr;
}

const EndingRow* FindEnding(Ending ending) {
  for (const EndingRow& row : kEndings) {
    if (row.ending == ending) return &row;
  }
  return nullptr;
}

// Codes that say nothing of their own when we ended the rank.
bool IsNoise(v1::FailureClass failure) {
  return failure == v1::FAILURE_CLASS_CRASH || failure == v1::FAILURE_CLASS_PEER_LOST;
}

}  // namespace

v1::FailureClass Classify(const RankEnd& end) {
  const EndingRow* const ours = FindEnding(end.ending);
  if (end.signal == 0) {
    if (end.exit_code == 0) return v1::FAILURE_CLASS_UNSPECIFIED;
    const ExitCodeRow* const code = FindCode(end.exit_code);
    const v1::FailureClass failure = code == nullptr ? v1::FAILURE_CLASS_CRASH : code->failure;
    return ours != nullptr && IsNoise(failure) ? ours->failure : failure;
  }
  if (ours != nullptr && (end.signal == SIGTERM || end.signal == SIGKILL)) return ours->failure;
  if (end.signal == SIGKILL && end.oom_killed) return v1::FAILURE_CLASS_OUT_OF_MEMORY;
  return v1::FAILURE_CLASS_CRASH;
}

std::string Describe(const RankEnd& end) {
  std::string text;
  if (end.signal != 0) {
    text = "killed by signal " + std::to_string(end.signal);
    if (end.signal == SIGKILL && end.oom_killed && end.ending == Ending::kNone) {
      text += ", the memory limit was reached";
    }
  } else {
    text = "exit code " + std::to_string(end.exit_code);
    if (const ExitCodeRow* const code = FindCode(end.exit_code)) text += " (" + std::string(code->meaning) + ")";
  }
  if (const EndingRow* const ours = FindEnding(end.ending)) text += "; " + std::string(ours->reason);
  return text;
}

}  // namespace vlm::worker
