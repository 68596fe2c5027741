#include "rpc/grpc_threads.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <memory>

#include "rpc/grpc_convert.h"

namespace vlm::rpc {
namespace {

// A channel without credentials fails every call at once, without a connection; its one call joins the threads.
class Share {
 public:
  Share() : stub_(grpc::CreateChannel("127.0.0.1:1", std::shared_ptr<grpc::ChannelCredentials>())) {
    stub_.UnaryCall(&context_, "/none", grpc::StubOptions(), &request_, &response_, [](grpc::Status) {});
  }

 private:
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_ = ToByteBuffer("");
  grpc::ByteBuffer response_;
};

}  // namespace

void KeepGrpcThreads() { [[maybe_unused]] static const Share* const share = new Share; }

}  // namespace vlm::rpc
