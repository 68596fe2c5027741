// A job's events and progress as they happen, across restarts of the coordinator.
#ifndef VLM_CLI_JOB_WATCH_H_
#define VLM_CLI_JOB_WATCH_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "cli/service.h"
#include "cli/stream_inbox.h"
#include "rpc/channel.h"
#include "vlm/v1/job.pb.h"

namespace vlm::cli {

struct WatchItem {
  enum class Kind {
    kNothing,  // nothing came in time
    kEvent,
    kProgress,  // of `stage`
    kHeartbeat,
    kAway,    // the stream broke; it is opened again, from the last cursor. `status` says why
    kFailed,  // for good: no such job, no right to see it
  };
  Kind kind = Kind::kNothing;
  v1::Event event;
  std::string stage;
  v1::Progress progress;
  absl::Status status;
};

// One thread at a time.
class JobWatch {
 public:
  // From the job's first event; again from it when the coordinator's store is another one than before. `service` must
  // outlive the watch.
  JobWatch(Service* service, std::string job_id);
  ~JobWatch();

  // Waits up to `wait_max` for what comes next.
  WatchItem Next(absl::Duration wait_max);

 private:
  absl::Status Open();
  WatchItem Broken(absl::Status status);
  WatchItem FromMessage(const std::string& message);

  Service* const service_;
  const std::string job_id_;
  std::string cursor_;
  std::shared_ptr<StreamInbox> inbox_;
  std::unique_ptr<rpc::Stream> stream_;
  absl::Duration heard_at_;
  absl::Duration open_at_;
  absl::Duration backoff_;
  bool away_ = false;  // kAway was said and nothing came since
};

}  // namespace vlm::cli

#endif  // VLM_CLI_JOB_WATCH_H_
