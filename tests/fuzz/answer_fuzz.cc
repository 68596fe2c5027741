// What clients are told: answers of the checkpoint service to a trainer, answers of the coordinator to vlmctl and their
// display, details of errors, and the worker's proxy for its ranks, whose calls and answers both come from outside.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "checkpoint/client/checkpoint_client.h"
#include "cli/follow_view.h"
#include "cli/job_views.h"
#include "cli/message_text.h"
#include "rpc/bad_request.h"
#include "rpc/channel.h"
#include "rpc/retry.h"
#include "rpc/token.h"
#include "telemetry/registry.h"
#include "tests/fuzz/drained_executor.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"
#include "tests/fuzz/temporary_folder.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/error.pb.h"
#include "vlm/v1/node.pb.h"
#include "vlm/v1/trainer.pb.h"
#include "worker/call_relay.h"
#include "worker/registry_metrics.h"
#include "worker/state_dir.h"
#include "worker/trainer_service.h"

namespace vlm::fuzz {
namespace {

const std::string kUid = "0123456789abcdef";
constexpr char kToken[] = "token of rank 0";

const KnownValues& Known() {
  static const auto* const kKnown = new KnownValues{
      {{"stage_uid", {kUid, "other"}}, {"attempt_id", {"aa/5"}}, {"job_id", {"job-1"}}, {"folder", {"/artifacts/x"}}},
      {{"fence", {5, 6}}, {"rank", {0, 1}}, {"world", {1, 2}}, {"nanos", {0, 999'999'999}}, {"code", {0, 3, 8}}}};
  return *kKnown;
}

template <typename Message>
Message Built(FuzzInput* input) {
  Message message;
  ReadMessage(Known(), input, &message);
  return message;
}

// Answers every call at once with the next bytes of the input, in the shape of the method's response.
class FuzzedChannel final : public rpc::Channel {
 public:
  explicit FuzzedChannel(FuzzInput* input) : input_(*input) {}
  void Call(std::string_view method, std::string, const rpc::CallOptions&, Done done) override {
    if (input_.Byte() % 8 == 1) return done(absl::FailedPreconditionError("fuzzed refusal"));
    done(AnswerOf(method.substr(method.rfind('/') + 1)));
  }
  std::unique_ptr<rpc::Stream> Open(std::string_view, const rpc::CallOptions&,
                                    std::shared_ptr<rpc::StreamReceiver>) override {
    return nullptr;
  }

 private:
  template <typename Response>
  std::string Bytes() {
    return Built<Response>(&input_).SerializeAsString();
  }
  std::string AnswerOf(std::string_view name) {
    if (input_.Byte() % 8 == 1) return std::string(input_.Text());
    if (name == "OpenAttempt") return Bytes<v1::OpenAttemptResponse>();
    if (name == "BeginStep") return Bytes<v1::BeginStepResponse>();
    if (name == "AddPart") return Bytes<v1::AddPartResponse>();
    if (name == "CommitArtifact") return Bytes<v1::CommitArtifactResponse>();
    if (name == "ListSteps") return Bytes<v1::ListStepsResponse>();
    if (name == "VerifyStep") return Bytes<v1::VerifyStepResponse>();
    if (name == "LeaseShards") return Bytes<v1::LeaseShardsResponse>();
    if (name == "ListShards") return Bytes<v1::ListShardsResponse>();
    return Bytes<v1::GetStepResponse>();
  }
  FuzzInput& input_;
};

void AskCheckpoints(FuzzInput* input) {
  FuzzedChannel channel(input);
  const checkpoint::CheckpointClient client(&channel, {});
  client.OpenAttempt({}).IgnoreError();
  client.BeginStep({}).IgnoreError();
  client.AddPart({}).IgnoreError();
  client.CommitArtifact(kUid, 5, "model").IgnoreError();
  client.GetStep(kUid, 1).IgnoreError();
  client.GetLatest(kUid).IgnoreError();
  client.ListStepsOfJob("job-1").IgnoreError();
  client.DeleteStep(kUid, 1).IgnoreError();
  client.VerifyStep(kUid, 1, absl::Seconds(1)).IgnoreError();
}

void Show(FuzzInput* input) {
  const cli::ViewOptions options{.now = absl::FromUnixSeconds(1'700'000'000), .columns = input->Byte()};
  const auto as_text = [](const google::protobuf::Message& message) {
    cli::MessageToText(message, cli::OutputFormat::kYaml).IgnoreError();  // a time out of range has no text
  };
  switch (input->Below(7)) {
    case 0: {
      const auto jobs = Built<v1::ListJobsResponse>(input);
      cli::JobListText(jobs, options);
      return as_text(jobs);
    }
    case 1: {
      const auto nodes = Built<v1::ListNodesResponse>(input);
      cli::NodeListText(nodes, options);
      return as_text(nodes);
    }
    case 2: {
      const auto steps = Built<v1::ListStepsResponse>(input);
      cli::StepListText(steps, options);
      for (const v1::Step& step : steps.steps()) cli::StepText(step, options);
      return as_text(steps);
    }
    case 3: {
      const auto points = Built<v1::QueryMetricsResponse>(input);
      return as_text(points);
    }
    case 4: {
      cli::FollowView view;
      absl::Duration now;
      while (!input->empty()) {
        view.SetJob(Built<v1::Job>(input));
        const auto response = Built<v1::WatchEventsResponse>(input);
        view.SetProgress(response.stage(), response.progress());
        view.SetAway(input->Byte() % 2 == 1);
        view.LiveLines(options.now);
        view.TakePlainLines(options.now, now += absl::Seconds(3));
        if (cli::IsFinal(view.job().state())) view.Summary(options.now);
      }
      return;
    }
    default: {
      const auto job = Built<v1::GetJobResponse>(input);
      cli::JobText(job.job(), options);
      cli::JobDescription(job.job(), {Built<v1::Event>(input)}, options);
      cli::NextCommands(job.job());
      return as_text(job);
    }
  }
}

void ReadErrors(FuzzInput* input) {
  absl::Status status = absl::InvalidArgumentError("wrong");
  const auto details = Built<v1::BadRequest>(input);
  status.SetPayload(rpc::kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  VLM_CHECK(rpc::ViolationsOf(status).size() == static_cast<size_t>(details.field_violations_size()),
            "violations lost");
  status.SetPayload(rpc::kRetryInfoUrl, absl::Cord(Built<v1::RetryInfo>(input).SerializeAsString()));
  const std::optional<absl::Duration> delay = rpc::RetryDelayOf(status);
  if (delay.has_value()) VLM_CHECK(*delay >= absl::ZeroDuration(), "a delay in the past");
  status.SetPayload(rpc::kRetryInfoUrl, absl::Cord(std::string(input->Text())));
  status.SetPayload(rpc::kBadRequestUrl, absl::Cord(std::string(input->Rest())));
  rpc::ViolationsOf(status);
  rpc::RetryDelayOf(status);
}

class SilentStream final : public rpc::Stream {
 public:
  bool Send(std::string) override { return true; }
  void Close(absl::Status) override { closed = true; }
  bool closed = false;
};

// The state folder of all inputs: a rank's parts are stored before they are passed on, and removed when answered.
worker::StateDir* State() {
  static const auto* const kFolder = new TemporaryFolder();
  static worker::StateDir* const kState = [] {
    absl::StatusOr<std::unique_ptr<worker::StateDir>> state =
        worker::StateDir::Open(kFolder->path() + "/state", "host");
    VLM_CHECK(state.ok(), state.status().ToString());
    return state->release();
  }();
  return kState;
}

// A trainer that says anything to its worker, whose calls are answered with anything.
void Proxy(FuzzInput* input) {
  FuzzedChannel channel(input);
  auto executor = std::make_shared<DrainedExecutor>();
  telemetry::MetricRegistry registry;
  worker::RegistryMetrics metrics(&registry, executor.get());
  worker::CallRelay relay({.channel = &channel,
                           .executor = executor,
                           .disk = executor,
                           .state = State(),
                           .metrics = &metrics,
                           .clock = executor.get(),
                           .jitter = RngKey{3}});
  worker::TrainerService service(executor, &relay,
                                 {.received = [](const worker::RankKey&, const v1::AttachRequest&) {},
                                  .detached = [](const worker::RankKey&) {},
                                  .leased = [](const worker::RankKey&, const std::vector<v1::HeldShard>&) {},
                                  .released = [](const v1::HeldShard&) {}});
  const bool pool = input->Byte() % 2 == 0;
  service.Expect({"aa/5", 5, 0}, kToken, kUid, pool);
  const rpc::ServiceRegistry methods = service.Registry();
  const rpc::CallContext context{{{rpc::kAttemptTokenKey, kToken}}, absl::Seconds(10), "trainer"};
  auto stream = std::make_shared<SilentStream>();
  const auto receiver = methods.streams.at("/vlm.v1.TrainerService/Attach")(context, stream);
  executor->RunDue();
  for (int i = input->Byte() % 4; i > 0; --i) receiver->OnMessage(Built<v1::AttachRequest>(input).SerializeAsString());
  executor->RunDue();
  for (int calls = input->Byte() % 6; calls > 0; --calls) {
    const auto method =
        std::next(methods.unary.begin(), static_cast<std::ptrdiff_t>(input->Below(methods.unary.size())));
    auto answers = std::make_shared<int>(0);
    std::string request = method->first.ends_with("AddPart") ? Built<v1::AddPartRequest>(input).SerializeAsString()
                                                             : Built<v1::LeaseShardsRequest>(input).SerializeAsString();
    method->second(context, std::move(request),
                   [answers](const absl::StatusOr<std::string>&) { VLM_CHECK(++*answers == 1, "answered twice"); });
    executor->RunDue();
    executor->Advance(absl::Minutes(1));
    VLM_CHECK(*answers == 1, "a rank's call was not answered: " + method->first);
  }
  executor->Advance(absl::Hours(1));
  VLM_CHECK(relay.waiting() == 0, "a call was kept after its answer");
}

}  // namespace
}  // namespace vlm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  switch (input.Byte() % 4) {
    case 0:
      vlm::fuzz::AskCheckpoints(&input);
      break;
    case 1:
      vlm::fuzz::Show(&input);
      break;
    case 2:
      vlm::fuzz::ReadErrors(&input);
      break;
    default:
      vlm::fuzz::Proxy(&input);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  Rng rng(RngKey{23});
  for (int i = 0; i < 32; ++i) {
    std::string seed(1, static_cast<char>(i));
    for (int byte = 0; byte < 300; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
