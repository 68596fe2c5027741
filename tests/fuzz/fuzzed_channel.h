// A service that answers every call and stream at once with the next bytes of an input, in the shape of the method's
// response, as nonsense, or as a refusal.
#ifndef VLM_TESTS_FUZZ_FUZZED_CHANNEL_H_
#define VLM_TESTS_FUZZ_FUZZED_CHANNEL_H_

#include <google/protobuf/message.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "rpc/channel.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/message_builder.h"

namespace vlm::fuzz {

// The response of each method that a client of this project calls, by its full name; of a stream that the service
// sends, one message of it.
const std::map<std::string, const google::protobuf::Message*, std::less<>>& Responses();

// Ends the process unless each method that `types` names exists and has that request.
void CheckRequests(const std::map<std::string, const google::protobuf::Message*, std::less<>>& types);

// Not thread-safe. An input at its end is NOT_FOUND to every call: who asks until something comes ends too.
class FuzzedChannel final : public rpc::Channel {
 public:
  // May change a message that is going to be sent.
  using Adjust = std::function<void(google::protobuf::Message*)>;

  // `known` and `input` must outlive the channel.
  FuzzedChannel(const KnownValues* known, FuzzInput* input, Adjust adjust = nullptr)
      : known_(*known), input_(*input), adjust_(std::move(adjust)) {}

  void Call(std::string_view method, std::string request, const rpc::CallOptions& options, Done done) override;
  std::unique_ptr<rpc::Stream> Open(std::string_view method, const rpc::CallOptions& options,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override;
  // What the last call was answered.
  const absl::StatusOr<std::string>& last() const { return last_; }

 private:
  std::string MessageOf(std::string_view method);
  absl::Status Refusal();

  const KnownValues& known_;
  FuzzInput& input_;
  const Adjust adjust_;
  absl::StatusOr<std::string> last_ = absl::UnknownError("no call was made");
};

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_FUZZED_CHANNEL_H_
