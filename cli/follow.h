// Staying with a job until it ends.
#ifndef VLM_CLI_FOLLOW_H_
#define VLM_CLI_FOLLOW_H_

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "cli/context.h"
#include "cli/follow_view.h"

namespace vlm::cli {

// The coordinator may be away for so long before we give up with UNAVAILABLE.
inline constexpr absl::Duration kAwayMax = absl::Minutes(10);

enum class WatchEnd { kEnded, kTimedOut, kInterrupted };

// Keeps `view` up to date with the job and calls `draw` after every change and a few times a second, until the job
// has ended, `timeout` is over or the interrupt is raised. Survives restarts of the coordinator.
absl::StatusOr<WatchEnd> WatchToEnd(const Context& context, const std::string& job_id, absl::Duration timeout,
                                    FollowView* view, const std::function<void()>& draw);

// `submit --follow`: live progress, then a summary. Ctrl-C leaves without cancelling.
VerbResult FollowJob(const Context& context, const std::string& job_id);

}  // namespace vlm::cli

#endif  // VLM_CLI_FOLLOW_H_
