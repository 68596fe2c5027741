// What a person sees of a running job: lines redrawn on a terminal, lines appended elsewhere, and the end.
#ifndef VLM_CLI_FOLLOW_VIEW_H_
#define VLM_CLI_FOLLOW_VIEW_H_

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "vlm/v1/job.pb.h"

namespace vlm::cli {

// Of one stage's appended lines, unless its state changes.
inline constexpr absl::Duration kPlainInterval = absl::Seconds(5);

// Pure but for what it is told. Not thread-safe. `wall` is used to show times, `now` (monotonic) to space lines.
class FollowView {
 public:
  // The job as the coordinator tells it now; replaces what was known, progress included.
  void SetJob(v1::Job job);
  void SetProgress(const std::string& stage, const v1::Progress& progress);
  // Whether the coordinator does not answer at present.
  void SetAway(bool away) { away_ = away; }
  const v1::Job& job() const { return job_; }

  // The block for a terminal: a line for the job, one per stage, one when the coordinator is away.
  std::vector<std::string> LiveLines(absl::Time wall) const;

  // What to append now: a line per stage whose state, restarts or progress changed; progress at most once per
  // kPlainInterval and stage.
  std::vector<std::string> TakePlainLines(absl::Time wall, absl::Duration now);

  // After the end: the outcome, a table of the stages, what to type next.
  std::string Summary(absl::Time wall) const;

 private:
  struct Shown {
    v1::StageState state = v1::STAGE_STATE_UNSPECIFIED;
    int32_t restarts = 0;
    uint64_t done = 0;
    absl::Duration at = -absl::InfiniteDuration();
  };

  v1::Job job_;
  bool away_ = false;
  bool away_shown_ = false;
  std::map<std::string, Shown> shown_;
};

}  // namespace vlm::cli

#endif  // VLM_CLI_FOLLOW_VIEW_H_
