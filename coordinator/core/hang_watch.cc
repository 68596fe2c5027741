// Ranks that stand still: frozen (no beat) or hung (beats without progress).
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kStepTimesMax = 16;
constexpr size_t kStepTimesNeeded = 5;
constexpr int kMedians = 5;

absl::Duration Median(std::deque<absl::Duration> times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

}  // namespace

void Coordinator::Core::NoteBeat(Stage* stage, const v1::RankBeat& beat) {
  const auto it = stage->attempt->live.find(beat.rank());
  if (it == stage->attempt->live.end()) return;
  LiveRank& live = it->second;
  live.beat_at = now();
  if (beat.phase() != live.beat.phase() || beat.counter() != live.beat.counter()) live.moved_at = now();
  if (beat.step() > live.beat.step()) {
    if (live.beat.step() > 0) {
      live.step_times.push_back((now() - live.step_at) / static_cast<int64_t>(beat.step() - live.beat.step()));
      if (live.step_times.size() > kStepTimesMax) live.step_times.pop_front();
    }
    live.step_at = now();
  }
  live.beat = beat;
  if (beat.phase() != v1::RANK_PHASE_UNSPECIFIED) live.phase = beat.phase();
}

absl::Duration Coordinator::Core::HangBudget(const Stage& stage, const LiveRank& rank) const {
  switch (rank.phase) {
    case v1::RANK_PHASE_LOAD:
      return options_.hang_load;
    case v1::RANK_PHASE_EVAL:
      return options_.hang_eval;
    case v1::RANK_PHASE_SAVE:
      return options_.hang_save;
    case v1::RANK_PHASE_PUBLISH:
      return options_.hang_publish;
    case v1::RANK_PHASE_STEP:
      if (stage.record.pool() || rank.step_times.size() < kStepTimesNeeded) return options_.hang_first_steps;
      return std::max(options_.hang_step_min, kMedians * Median(rank.step_times));
    default:
      return options_.hang_init;
  }
}

void Coordinator::Core::WatchForHangs(Stage* stage) {
  Attempt& attempt = *stage->attempt;
  struct Suspect {
    int32_t rank;
    uint64_t collective;
    Failure failure;
  };
  std::vector<Suspect> suspects;
  for (const v1::RankRecord& rank : attempt.record.ranks()) {
    const LiveRank& live = attempt.live.at(rank.rank());
    if (rank.ended() || live.condemned.has_value()) continue;
    const Worker* worker = workers_.Find(rank.node_id());
    // Silence of the whole worker is the lease's matter.
    if (worker->state != v1::NODE_STATE_LIVE || now() - worker->heard > absl::Seconds(2)) continue;
    const absl::Duration silent = now() - live.beat_at;
    const absl::Duration still = now() - live.moved_at;
    const absl::Duration budget = HangBudget(*stage, live);
    if (silent > options_.frozen_after) {
      suspects.push_back({rank.rank(),
                          live.beat.collective(),
                          {v1::FAILURE_CLASS_HANG, live.beat_at, absl::ZeroDuration(), rank.rank(),
                           absl::StrCat("rank ", rank.rank(), " on ", rank.node_id(), " is frozen: no beat for ",
                                        absl::FormatDuration(absl::Trunc(silent, absl::Milliseconds(100))))}});
    } else if (still > budget) {
      suspects.push_back(
          {rank.rank(),
           live.beat.collective(),
           {v1::FAILURE_CLASS_HANG, live.moved_at, absl::ZeroDuration(), rank.rank(),
            absl::StrCat("rank ", rank.rank(), " on ", rank.node_id(), " hangs in ", Word(live.phase), " at step ",
                         live.beat.step(), ", collective ", live.beat.collective(), ": no progress for ",
                         absl::FormatDuration(absl::Trunc(still, absl::Milliseconds(100))))}});
    }
  }
  if (suspects.empty()) return;
  if (stage->record.pool()) {
    for (const Suspect& suspect : suspects) {
      LiveRank& live = attempt.live.at(suspect.rank);
      live.condemned = v1::FAILURE_CLASS_HANG;
      live.condemned_message = suspect.failure.message;
      SendStop(stage, workers_.Find(FindRank(stage, suspect.rank)->node_id()), {suspect.rank});
    }
    return;
  }
  // The rank that entered the fewest collectives is the one the others wait for.
  const auto culprit = std::min_element(suspects.begin(), suspects.end(), [](const Suspect& a, const Suspect& b) {
    return a.collective != b.collective ? a.collective < b.collective : a.rank < b.rank;
  });
  BlameRank(stage, culprit->failure);
  StopAttempt(stage, v1::STOP_CAUSE_FAILURE, culprit->failure.message);
}

}  // namespace vlm::coordinator
