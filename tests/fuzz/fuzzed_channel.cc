#include "tests/fuzz/fuzzed_channel.h"

#include <google/protobuf/descriptor.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::fuzz {
namespace {

using google::protobuf::Message;
using Types = std::map<std::string, const Message*, std::less<>>;

// Of "/vlm.v1.JobService/GetJob".
const google::protobuf::MethodDescriptor& MethodOf(const std::string& path) {
  const auto* const method = google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(
      absl::StrReplaceAll(path.substr(1), {{"/", "."}}));
  VLM_CHECK(method != nullptr, "no .proto has the method " + path);
  return *method;
}

class HeldStream final : public rpc::Stream {
 public:
  bool Send(std::string) override { return true; }
  void Close(absl::Status) override {}
};

}  // namespace

const Types& Responses() {
  static const Types* const kResponses = [] {
    auto* const types = new Types{
        {"/vlm.v1.JobService/SubmitJob", &v1::SubmitJobResponse::default_instance()},
        {"/vlm.v1.JobService/GetJob", &v1::GetJobResponse::default_instance()},
        {"/vlm.v1.JobService/ListJobs", &v1::ListJobsResponse::default_instance()},
        {"/vlm.v1.JobService/CancelJob", &v1::CancelJobResponse::default_instance()},
        {"/vlm.v1.JobService/RetryJob", &v1::RetryJobResponse::default_instance()},
        {"/vlm.v1.JobService/WatchEvents", &v1::WatchEventsResponse::default_instance()},
        {"/vlm.v1.JobService/QueryMetrics", &v1::QueryMetricsResponse::default_instance()},
        {"/vlm.v1.NodeService/ListNodes", &v1::ListNodesResponse::default_instance()},
        {"/vlm.v1.CheckpointService/OpenAttempt", &v1::OpenAttemptResponse::default_instance()},
        {"/vlm.v1.CheckpointService/BeginStep", &v1::BeginStepResponse::default_instance()},
        {"/vlm.v1.CheckpointService/AddPart", &v1::AddPartResponse::default_instance()},
        {"/vlm.v1.CheckpointService/CommitArtifact", &v1::CommitArtifactResponse::default_instance()},
        {"/vlm.v1.CheckpointService/GetStep", &v1::GetStepResponse::default_instance()},
        {"/vlm.v1.CheckpointService/ListSteps", &v1::ListStepsResponse::default_instance()},
        {"/vlm.v1.CheckpointService/GetLatest", &v1::GetLatestResponse::default_instance()},
        {"/vlm.v1.CheckpointService/DeleteStep", &v1::DeleteStepResponse::default_instance()},
        {"/vlm.v1.CheckpointService/VerifyStep", &v1::VerifyStepResponse::default_instance()},
        {"/vlm.v1.DataService/LeaseShards", &v1::LeaseShardsResponse::default_instance()},
        {"/vlm.v1.DataService/CommitShard", &v1::CommitShardResponse::default_instance()},
        {"/vlm.v1.DataService/FailShard", &v1::FailShardResponse::default_instance()},
        {"/vlm.v1.DataService/ListShards", &v1::ListShardsResponse::default_instance()},
    };
    for (const auto& [path, response] : *types) {
      VLM_CHECK(MethodOf(path).output_type() == response->GetDescriptor(), "another response has " + path);
    }
    return types;
  }();
  return *kResponses;
}

void CheckRequests(const Types& types) {
  for (const auto& [path, request] : types) {
    VLM_CHECK(MethodOf(path).input_type() == request->GetDescriptor(), "another request has " + path);
  }
}

std::string FuzzedChannel::MessageOf(std::string_view method) {
  const auto response = Responses().find(method);
  VLM_CHECK(response != Responses().end(), "a method that no input answers: " + std::string(method));
  if (input_.Byte() % 16 == 1) return std::string(input_.Text());
  const std::unique_ptr<Message> message(response->second->New());
  if (!ReadMessage(known_, &input_, message.get())) message->Clear();
  if (adjust_) adjust_(message.get());
  return message->SerializeAsString();
}

absl::Status FuzzedChannel::Refusal() {
  const auto code = static_cast<absl::StatusCode>(1 + input_.Below(16));
  return absl::Status(code, absl::StrCat("refused: ", std::string(input_.Text())));
}

void FuzzedChannel::Call(std::string_view method, std::string, const rpc::CallOptions&, Done done) {
  if (input_.empty()) {
    last_ = absl::NotFoundError("the input is at its end");
  } else if (input_.Byte() % 16 == 1) {
    last_ = Refusal();
  } else {
    last_ = MessageOf(method);
  }
  done(last_);
}

std::unique_ptr<rpc::Stream> FuzzedChannel::Open(std::string_view method, const rpc::CallOptions&,
                                                 std::shared_ptr<rpc::StreamReceiver> receiver) {
  for (size_t messages = input_.Below(5); messages > 0; --messages) receiver->OnMessage(MessageOf(method));
  receiver->OnClosed(input_.empty()           ? absl::NotFoundError("the input is at its end")
                     : input_.Byte() % 2 == 1 ? Refusal()
                                              : absl::OkStatus());
  return std::make_unique<HeldStream>();
}

}  // namespace vlm::fuzz
