// Between our types and gRPC's. Included by the two gRPC files of this folder, and by what tests them, only.
#ifndef VLM_RPC_GRPC_CONVERT_H_
#define VLM_RPC_GRPC_CONVERT_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <string>

#include "base/status.h"

namespace vlm::rpc {

// The codes of both are the same numbers; payloads travel as details of google.rpc.Status.
absl::Status FromGrpc(const grpc::Status& status);
grpc::Status ToGrpc(const absl::Status& status);

grpc::ByteBuffer ToByteBuffer(const std::string& bytes);
std::string FromByteBuffer(const grpc::ByteBuffer& buffer);

// Of messages waiting in one stream (rpc/channel.h names the number).
inline constexpr size_t kStreamQueueMax = 1024;

}  // namespace vlm::rpc

#endif  // VLM_RPC_GRPC_CONVERT_H_
