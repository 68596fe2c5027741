// Keeps gRPC's callback threads for the life of the process.
#ifndef VLM_RPC_GRPC_THREADS_H_
#define VLM_RPC_GRPC_THREADS_H_

namespace vlm::rpc {

// gRPC 1.51 ends its callback threads when the last channel or server that uses callbacks is destroyed, and may
// then release their queue twice (a crash). This takes a share in them that is never given back. Call before
// the first channel or server; thread-safe, cheap when repeated.
void KeepGrpcThreads();

}  // namespace vlm::rpc

#endif  // VLM_RPC_GRPC_THREADS_H_
