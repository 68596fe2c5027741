// The life cycles as data: state x event -> next state. docs/state-machine.md is generated from these tables.
#ifndef VLM_COORDINATOR_CORE_TRANSITION_TABLE_H_
#define VLM_COORDINATOR_CORE_TRANSITION_TABLE_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "vlm/v1/job.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::coordinator {

// A job's state is derived from its intent and its stages; the table says which changes may come out.
enum class JobEvent { kAttemptOpened, kCancelled, kLastAttemptEnded, kAllSucceeded, kFailed, kRetried };

enum class StageEvent {
  kReuseFound,  // a finished stage with this key exists and its files are there
  kReuseMissed,
  kParentFailed,
  kCapacity,          // slots for at least `min` ranks: an attempt opens
  kAttemptSucceeded,  // or the final step was already complete
  kFailedRetry,       // the attempt or the publishing failed, the budget allows another
  kFailedFinal,
  kBackoffOver,
  kPublished,
  kCancelled,  // cancelled, and no attempt is left
  kRetried,    // a person's retry
};

enum class AttemptEvent { kOpened, kFoundComplete, kAllReady, kAllSucceeded, kStop, kAllReaped };

enum class RankState { kAssigned, kReady, kEnded };
enum class RankEvent { kEndpoint, kResult, kWorkerGone };

enum class WorkerEvent { kHello, kStreamBroken, kLeaseOver, kWindowOver };

template <typename State, typename Event>
struct Transition {
  State from;
  Event event;
  State to;
  std::string_view why;  // for the document
};

using JobTransition = Transition<v1::JobState, JobEvent>;
using StageTransition = Transition<v1::StageState, StageEvent>;
using AttemptTransition = Transition<v1::AttemptState, AttemptEvent>;
using RankTransition = Transition<RankState, RankEvent>;
using WorkerTransition = Transition<v1::NodeState, WorkerEvent>;

std::span<const JobTransition> JobTransitions();
std::span<const StageTransition> StageTransitions();
std::span<const AttemptTransition> AttemptTransitions();
std::span<const RankTransition> RankTransitions();
std::span<const WorkerTransition> WorkerTransitions();

// Nothing: the event cannot happen in that state, and firing it is a programmer's error.
std::optional<v1::JobState> Next(v1::JobState state, JobEvent event);
std::optional<v1::StageState> Next(v1::StageState state, StageEvent event);
std::optional<v1::AttemptState> Next(v1::AttemptState state, AttemptEvent event);
std::optional<RankState> Next(RankState state, RankEvent event);
std::optional<v1::NodeState> Next(v1::NodeState state, WorkerEvent event);

// What a person's command does to a stage in a state.
enum class CommandEffect { kNothing, kCancelNow, kStopAttempt, kCancelAfterPublishing, kRequeue, kUnblock };
CommandEffect OnCancel(v1::StageState state);
CommandEffect OnRetry(v1::StageState state);

bool IsFinal(v1::JobState state);
bool IsFinal(v1::StageState state);
bool IsGood(v1::StageState state);  // SUCCEEDED or REUSED

// Lower-case words without the enum's prefix: "queued".
std::string Word(v1::JobState state);
std::string Word(v1::StageState state);
std::string Word(v1::AttemptState state);
std::string Word(v1::NodeState state);
std::string Word(v1::FailureClass failure);
std::string Word(v1::StopCause cause);
std::string Word(v1::RankPhase phase);

// docs/state-machine.md, whole.
std::string StateMachineMarkdown();

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_TRANSITION_TABLE_H_
