#include "rpc/channel.h"

#include <optional>
#include <utility>

#include "base/mutex.h"

namespace vlm::rpc {

absl::StatusOr<std::string> CallAndWait(Channel* channel, std::string_view method, std::string request,
                                        const CallOptions& options) {
  struct Waiting {
    Mutex mutex;
    CondVar answered;
    std::optional<absl::StatusOr<std::string>> answer ABSL_GUARDED_BY(mutex);
  };
  const auto waiting = std::make_shared<Waiting>();
  channel->Call(method, std::move(request), options, [waiting](absl::StatusOr<std::string> answer) {
    MutexLock lock(&waiting->mutex);
    waiting->answer = std::move(answer);
    waiting->answered.NotifyAll();
  });
  MutexLock lock(&waiting->mutex);
  while (!waiting->answer) waiting->answered.Wait(&waiting->mutex);
  return *std::move(waiting->answer);
}

}  // namespace vlm::rpc
