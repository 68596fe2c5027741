#include "coordinator/data_service.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "rpc/token.h"
#include "vlm/v1/node.pb.h"

namespace vlm::coordinator {
namespace {

template <typename Message, typename Request, typename Response>
void Pass(DecisionLoop* loop, const std::string& method, rpc::ServiceRegistry* registry) {
  registry->AddUnary<Request, Response>(
      "/vlm.v1.DataService/" + method,
      [loop](const rpc::CallContext& context, Request request, std::function<void(absl::StatusOr<Response>)> done) {
        const absl::StatusOr<std::string> node_id = rpc::NamedWorker(context, "a call about shards");
        if (!node_id.ok()) return done(node_id.status());
        loop->Call<Response>(
            [node_id = *node_id, request = std::move(request)](uint64_t call) {
              return Message{.call = call, .node_id = node_id, .request = request};
            },
            std::move(done));
      });
}

}  // namespace

void RegisterDataService(DecisionLoop* loop, rpc::ServiceRegistry* registry) {
  Pass<LeaseShards, v1::LeaseShardsRequest, v1::LeaseShardsResponse>(loop, "LeaseShards", registry);
  Pass<CommitShard, v1::CommitShardRequest, v1::CommitShardResponse>(loop, "CommitShard", registry);
  Pass<FailShard, v1::FailShardRequest, v1::FailShardResponse>(loop, "FailShard", registry);
  Pass<ListShards, v1::ListShardsRequest, v1::ListShardsResponse>(loop, "ListShards", registry);
}

void RegisterNodeService(DecisionLoop* loop, rpc::ServiceRegistry* registry) {
  registry->AddUnary<v1::ListNodesRequest, v1::ListNodesResponse>(
      "/vlm.v1.NodeService/ListNodes", [loop](const rpc::CallContext&, const v1::ListNodesRequest&,
                                              std::function<void(absl::StatusOr<v1::ListNodesResponse>)> done) {
        auto response = std::make_shared<v1::ListNodesResponse>();
        const absl::Status queued = loop->Read([response](const Coordinator& core) { *response = core.ListNodes(); },
                                               [response, done] { done(*response); });
        if (!queued.ok()) done(queued);
      });
}

}  // namespace vlm::coordinator
