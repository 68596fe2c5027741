// From a call with a callback to a call that waits: private to rpc/.
#ifndef VLM_RPC_ANSWER_WAIT_H_
#define VLM_RPC_ANSWER_WAIT_H_

#include <functional>
#include <string>

#include "base/status.h"
#include "rpc/channel.h"

namespace vlm::rpc {

// Runs `start` with a callback that must be called exactly once, and blocks until it was. Not from a thread of the
// transport.
absl::StatusOr<std::string> WaitForAnswer(const std::function<void(Channel::Done)>& start);

}  // namespace vlm::rpc

#endif  // VLM_RPC_ANSWER_WAIT_H_
