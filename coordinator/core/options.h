// The coordinator's durations and limits.
#ifndef VLM_COORDINATOR_CORE_OPTIONS_H_
#define VLM_COORDINATOR_CORE_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"

namespace vlm::coordinator {

struct CoordinatorOptions {
  std::string default_artifacts;  // root folder of jobs that name none; absolute
  // Unpredictable bytes for identities and attempt secrets (base/entropy.h); a seeded stream in the simulation.
  std::function<std::string(size_t bytes)> random_bytes;

  absl::Duration lease = absl::Seconds(4);             // a worker without a message for so long is LOST
  absl::Duration reattach_window = absl::Seconds(15);  // after a start or a stall of our own: nobody is LOST
  absl::Duration stall = absl::Seconds(1);             // a longer gap between ticks is a stall of our own
  absl::Duration tick = absl::Milliseconds(250);
  absl::Duration orphan_grace = absl::Minutes(10);
  absl::Duration start_timeout = absl::Seconds(300);    // assignment to every rank READY
  absl::Duration stop_grace = absl::Seconds(10);        // TERM to KILL
  absl::Duration root_cause_window = absl::Seconds(2);  // other ranks' reports may supply an earlier root cause
  absl::Duration lost_wait = absl::Seconds(5);          // from a lost worker's last beat to the next attempt
  absl::Duration frozen_after = absl::Seconds(10);      // no beat of a rank while its worker beats

  // Without a change of a rank's counter for so long in that phase it is hung.
  absl::Duration hang_init = absl::Minutes(5);
  absl::Duration hang_load = absl::Minutes(10);
  absl::Duration hang_eval = absl::Minutes(5);
  absl::Duration hang_save = absl::Minutes(10);
  absl::Duration hang_publish = absl::Minutes(5);
  absl::Duration hang_first_steps = absl::Minutes(2);  // `step` of a gang until five steps were timed; of a pool
  absl::Duration hang_step_min = absl::Seconds(10);    // else max(this, five medians)

  absl::Duration shard_lease = absl::Seconds(30);
  absl::Duration call_overdue = absl::Seconds(30);          // a checkpoint call without an answer is named again
  absl::Duration call_retry_min = absl::Milliseconds(500);  // after an answer that may pass, doubling ...
  absl::Duration call_retry_max = absl::Seconds(10);        // ... up to this
  absl::Duration resend = absl::Seconds(5);                 // Stop and CheckRoot are sent again after so long
  absl::Duration root_recheck = absl::Seconds(30);          // a worker that does not see an artifact root
  // A worker that is LOST for so long is forgotten, so that machines that went away for good leave no row behind. Far
  // longer than the orphan grace: by then none of its ranks runs.
  absl::Duration forget_lost_after = absl::Hours(7 * 24);
  uint64_t telemetry_credit_bytes = 1 << 20;
  size_t live_jobs_max = 100'000;  // more submits are RESOURCE_EXHAUSTED
};

inline constexpr uint32_t kProtocolMin = 1;
inline constexpr uint32_t kProtocolMax = 1;
inline constexpr uint32_t kStoreFormat = 1;
// An epoch grows by one with each start. A worker that says it has met a higher one than this is refused: to follow it
// would leave no room above.
inline constexpr uint64_t kEpochMax = uint64_t{1} << 62;
inline constexpr uint64_t kLeaseIdBlock = 1000;
inline constexpr uint32_t kShardTriesMax = 3;
inline constexpr uint32_t kShardsPerLeaseMax = 16;
inline constexpr size_t kRequestIdBytesMax = 128;
inline constexpr size_t kMessageBytesMax = 4096;  // of failures kept in rows
inline constexpr int kListPageMax = 1000;

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_OPTIONS_H_
