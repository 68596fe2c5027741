// Calls of the coordinator, repeated while it is away.
#ifndef VLM_CLI_SERVICE_H_
#define VLM_CLI_SERVICE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/endpoint.h"
#include "cli/interrupt.h"
#include "rpc/channel.h"
#include "vlm/v1/job.pb.h"

namespace vlm::cli {

struct ServiceOptions {
  absl::Duration call_deadline = absl::Seconds(10);
  absl::Duration backoff_min = absl::Milliseconds(50);  // doubles up to
  absl::Duration backoff_max = absl::Seconds(1);
};

// How long a call is repeated while the coordinator is away (UNAVAILABLE, no answer in time) or full. Every call may
// be repeated: the service's methods are idempotent.
inline constexpr absl::Duration kNoPatience = absl::ZeroDuration();
inline constexpr absl::Duration kShortPatience = absl::Seconds(2);  // a look
inline constexpr absl::Duration kLongPatience = absl::Seconds(60);  // a change that a person waits for

// One thread at a time.
class Service {
 public:
  using Resolve = std::function<absl::StatusOr<Endpoint>()>;
  using Connect = std::function<absl::StatusOr<std::unique_ptr<rpc::Channel>>(const Endpoint&)>;

  // All must outlive the service. `on_wait` is told once per call that is being repeated, with its first error.
  Service(Resolve resolve, Connect connect, const Clock* clock, const Interrupt* interrupt,
          std::function<void(const absl::Status&)> on_wait, ServiceOptions options = {});

  // CANCELLED when interrupted while waiting to call again; else the last error, naming the address when it is
  // UNAVAILABLE.
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(std::string_view method, const Request& request,
                                absl::Duration patience = kShortPatience) {
    return Call<Response>(method, request, patience, options_.call_deadline);
  }
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(std::string_view method, const Request& request, absl::Duration patience,
                                absl::Duration deadline) {
    VLM_ASSIGN_OR_RETURN(const std::string bytes, CallBytes(method, request.SerializeAsString(), patience, deadline));
    Response response;
    if (!response.ParseFromString(bytes)) {
      return absl::InternalError("the answer does not parse as the method's response: " + std::string(method));
    }
    return response;
  }

  absl::StatusOr<v1::Job> GetJob(const std::string& job_id, absl::Duration patience = kShortPatience);
  // Every page, newest first.
  absl::StatusOr<v1::ListJobsResponse> ListJobs();
  // `job` is an id, or a name that only one job has. NOT_FOUND; INVALID_ARGUMENT listing the jobs of that name.
  absl::StatusOr<v1::Job> FindJob(const std::string& job);

  // The channel to where the coordinator is now; reconnects when its address has changed. Valid until the service ends.
  absl::StatusOr<rpc::Channel*> channel();

  const Clock* clock() const { return clock_; }
  const Interrupt* interrupt() const { return interrupt_; }

 private:
  absl::StatusOr<std::string> CallBytes(std::string_view method, const std::string& request, absl::Duration patience,
                                        absl::Duration deadline);
  absl::StatusOr<std::string> CallOnce(std::string_view method, const std::string& request, absl::Duration deadline);

  const Resolve resolve_;
  const Connect connect_;
  const Clock* const clock_;
  const Interrupt* const interrupt_;
  const std::function<void(const absl::Status&)> on_wait_;
  const ServiceOptions options_;
  std::optional<Endpoint> endpoint_;
  std::vector<std::unique_ptr<rpc::Channel>> channels_;  // old ones stay: streams may still refer to them
};

}  // namespace vlm::cli

#endif  // VLM_CLI_SERVICE_H_
