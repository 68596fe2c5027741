#include "coordinator/core/transition_table.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <vector>

namespace vlm::coordinator {
namespace {

constexpr JobEvent kJobEvents[] = {JobEvent::kAttemptOpened, JobEvent::kCancelled, JobEvent::kLastAttemptEnded,
                                   JobEvent::kAllSucceeded,  JobEvent::kFailed,    JobEvent::kRetried};
constexpr StageEvent kStageEvents[] = {
    StageEvent::kReuseFound,       StageEvent::kReuseMissed, StageEvent::kParentFailed, StageEvent::kCapacity,
    StageEvent::kAttemptSucceeded, StageEvent::kFailedRetry, StageEvent::kFailedFinal,  StageEvent::kBackoffOver,
    StageEvent::kPublished,        StageEvent::kCancelled,   StageEvent::kRetried};
constexpr AttemptEvent kAttemptEvents[] = {AttemptEvent::kOpened,   AttemptEvent::kFoundComplete,
                                           AttemptEvent::kAllReady, AttemptEvent::kAllSucceeded,
                                           AttemptEvent::kStop,     AttemptEvent::kAllReaped};
constexpr RankEvent kRankEvents[] = {RankEvent::kEndpoint, RankEvent::kResult, RankEvent::kWorkerGone};
constexpr WorkerEvent kWorkerEvents[] = {WorkerEvent::kHello, WorkerEvent::kStreamBroken, WorkerEvent::kLeaseOver,
                                         WorkerEvent::kWindowOver};

// Fires every event in every state: exactly the table's rows answer, each once.
template <typename State, typename Event, size_t N>
void FireAll(std::span<const Transition<State, Event>> table, int states, const Event (&events)[N]) {
  size_t answered = 0;
  for (int number = 0; number < states; ++number) {
    for (const Event event : events) {
      const auto state = static_cast<State>(number);
      size_t rows = 0;
      std::optional<State> to;
      for (const auto& row : table) {
        if (row.from != state || row.event != event) continue;
        ++rows;
        to = row.to;
      }
      EXPECT_LE(rows, 1u) << "state " << number << ", event " << static_cast<int>(event) << " has two rows";
      EXPECT_EQ(Next(state, event), to) << "state " << number << ", event " << static_cast<int>(event);
      answered += rows;
    }
  }
  EXPECT_EQ(answered, table.size()) << "a row names a state or event outside the life cycle";
}

TEST(TransitionTable, EveryEventInEveryState) {
  FireAll(JobTransitions(), v1::JobState_MAX + 1, kJobEvents);
  FireAll(StageTransitions(), v1::StageState_MAX + 1, kStageEvents);
  FireAll(AttemptTransitions(), v1::AttemptState_MAX + 1, kAttemptEvents);
  FireAll(RankTransitions(), 3, kRankEvents);
  FireAll(WorkerTransitions(), v1::NodeState_MAX + 1, kWorkerEvents);
}

TEST(TransitionTable, FinalStatesAreLeftByRetryOnly) {
  for (const StageTransition& row : StageTransitions()) {
    if (IsFinal(row.from)) EXPECT_EQ(row.event, StageEvent::kRetried) << Word(row.from);
  }
  for (const JobTransition& row : JobTransitions()) {
    if (IsFinal(row.from)) EXPECT_EQ(row.event, JobEvent::kRetried) << Word(row.from);
  }
  for (const AttemptTransition& row : AttemptTransitions()) EXPECT_NE(row.from, v1::ATTEMPT_STATE_ENDED);
}

// Whatever state is reached, something leads on to a final one.
TEST(TransitionTable, EveryStageStateReachesAFinalOne) {
  for (int number = v1::STAGE_STATE_BLOCKED; number <= v1::StageState_MAX; ++number) {
    std::set<v1::StageState> reached{static_cast<v1::StageState>(number)};
    for (size_t before = 0; before != reached.size();) {
      before = reached.size();
      for (const StageTransition& row : StageTransitions()) {
        if (reached.contains(row.from)) reached.insert(row.to);
      }
    }
    EXPECT_TRUE(reached.contains(v1::STAGE_STATE_SUCCEEDED) || reached.contains(v1::STAGE_STATE_CANCELLED) ||
                IsFinal(static_cast<v1::StageState>(number)))
        << number;
  }
}

TEST(TransitionTable, CommandsNameAnEffectForEveryState) {
  for (int number = v1::STAGE_STATE_BLOCKED; number <= v1::StageState_MAX; ++number) {
    const auto state = static_cast<v1::StageState>(number);
    if (IsFinal(state)) {
      EXPECT_EQ(OnCancel(state), CommandEffect::kNothing) << Word(state);
    } else {
      EXPECT_NE(OnCancel(state), CommandEffect::kNothing) << Word(state);
    }
    if (OnCancel(state) == CommandEffect::kCancelNow) {
      EXPECT_EQ(Next(state, StageEvent::kCancelled), v1::STAGE_STATE_CANCELLED) << Word(state);
    }
    if (OnRetry(state) != CommandEffect::kNothing) {
      EXPECT_TRUE(Next(state, StageEvent::kRetried).has_value()) << Word(state);
    }
  }
}

TEST(TransitionTable, DocumentFollowsTheTables) {
  const std::string path = std::string(VLM_SOURCE_DIR) + "/docs/state-machine.md";
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), StateMachineMarkdown())
      << "write it anew: build/test/tests/state_machine_document > docs/state-machine.md";
}

}  // namespace
}  // namespace vlm::coordinator
