// What a connection to a target's one played service is made of: every call and stream goes to that channel.
#ifndef VLM_TESTS_FUZZ_FORWARDING_CHANNEL_H_
#define VLM_TESTS_FUZZ_FORWARDING_CHANNEL_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "rpc/channel.h"

namespace vlm::fuzz {

class ForwardingChannel final : public rpc::Channel {
 public:
  // `channel` must outlive this one.
  explicit ForwardingChannel(rpc::Channel* channel) : channel_(*channel) {}
  void Call(std::string_view method, std::string request, const rpc::CallOptions& options, Done done) override {
    channel_.Call(method, std::move(request), options, std::move(done));
  }
  std::unique_ptr<rpc::Stream> Open(std::string_view method, const rpc::CallOptions& options,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override {
    return channel_.Open(method, options, std::move(receiver));
  }

 private:
  rpc::Channel& channel_;
};

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_FORWARDING_CHANNEL_H_
