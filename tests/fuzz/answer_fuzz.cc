// What clients are told: answers of the checkpoint service to a trainer, answers of the coordinator to vlmctl and all
// that it shows of them, details of errors, and the worker's proxy for its ranks, whose calls and answers both come
// from outside.
#include <google/protobuf/message.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/simulated_file_system.h"
#include "checkpoint/client/checkpoint_client.h"
#include "cli/checkpoint_verbs.h"
#include "cli/curve.h"
#include "cli/follow_view.h"
#include "cli/job_verbs.h"
#include "cli/job_views.h"
#include "cli/table.h"
#include "rpc/bad_request.h"
#include "rpc/channel.h"
#include "rpc/grpc_convert.h"
#include "rpc/retry.h"
#include "rpc/token.h"
#include "telemetry/registry.h"
#include "tests/fuzz/drained_executor.h"
#include "tests/fuzz/forwarding_channel.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/fuzzed_channel.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/message_builder.h"
#include "tests/fuzz/screen_check.h"
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
  static const auto* const kKnown = new KnownValues{{{"stage_uid", {kUid, "other"}},
                                                     {"attempt_id", {"aa/5"}},
                                                     {"job_id", {"job-1"}},
                                                     {"folder", {"/artifacts/x"}},
                                                     {"name", {"sft"}},
                                                     {"kind", {"sft", "generate", "index"}},
                                                     {"phase", {"exited", "step"}},
                                                     {"type_url", {rpc::kBadRequestUrl, rpc::kRetryInfoUrl}}},
                                                    {{"fence", {5, 6}},
                                                     {"rank", {0, 1}},
                                                     {"world", {1, 2}},
                                                     {"state", {2, 3, 4, 5, 6, 7, 8}},
                                                     {"seconds", {0, 5, 1'600'000'000, 1'699'999'990}},
                                                     {"nanos", {0, 999'999'999}},
                                                     {"code", {0, 3, 8}}}};
  return *kKnown;
}

template <typename Message>
Message Built(FuzzInput* input) {
  Message message;
  if (!ReadMessage(Known(), input, &message)) message.Clear();
  return message;
}

// ---- the checkpoint service to a trainer ----

// What a client says of a call is what it was answered: the same error, INTERNAL for what does not parse, else this
// response.
template <typename Response>
std::optional<Response> Answered(const FuzzedChannel& channel, const absl::Status& status) {
  Response response;
  if (!channel.last().ok()) {
    VLM_CHECK(status.code() == channel.last().status().code(),
              "another error than the service's: " + status.ToString());
    return std::nullopt;
  }
  const bool parses = response.ParseFromString(*channel.last());
  VLM_CHECK(status.ok() == parses, "an answer was misread: " + status.ToString());
  if (parses) return response;
  VLM_CHECK(absl::IsInternal(status) && !status.message().empty(), status.ToString());
  return std::nullopt;
}

void CheckInfo(const checkpoint::StepInfo& info, const v1::Step& step) {
  VLM_CHECK(info.stage_uid == step.stage_uid() && info.job_id == step.job_id() && info.stage == step.stage() &&
                info.step == step.step() && info.fence == step.fence() && info.final == step.final(),
            "another step");
  VLM_CHECK(info.folder == step.folder() && info.bytes == step.bytes() && info.world == step.world() &&
                info.parent_step == step.parent_step() && info.damage == step.damage(),
            "another content of a step");
  VLM_CHECK((info.status == checkpoint::StepStatus::kComplete) == (step.state() == v1::STEP_STATE_COMPLETE),
            "a step is complete when the service says so");
  VLM_CHECK(step.has_committed_at() || info.committed_at == absl::InfinitePast(), "a commit was made up");
  VLM_CHECK(info.holds.size() == static_cast<size_t>(step.holds_size()), "holds lost");
  VLM_CHECK(info.files.size() == static_cast<size_t>(step.files_size()), "files lost");
  for (size_t i = 0; i < info.files.size(); ++i) {
    const v1::StepFile& file = step.files(static_cast<int>(i));
    VLM_CHECK(info.files[i].name == file.name() && info.files[i].bytes == file.bytes() &&
                  info.files[i].digest == file.digest(),
              "another file");
  }
}

void AskOfSteps(const FuzzedChannel& channel, const checkpoint::CheckpointClient& client) {
  const auto step = client.GetStep(kUid, 1);
  if (const auto answer = Answered<v1::GetStepResponse>(channel, step.status())) CheckInfo(*step, answer->step());
  const auto latest = client.GetLatest(kUid);
  if (const auto answer = Answered<v1::GetLatestResponse>(channel, latest.status())) CheckInfo(*latest, answer->step());
  const auto steps = client.ListStepsOfJob("job-1");
  if (const auto answer = Answered<v1::ListStepsResponse>(channel, steps.status())) {
    VLM_CHECK(steps->size() == static_cast<size_t>(answer->steps_size()), "steps lost");
    for (size_t i = 0; i < steps->size(); ++i) CheckInfo((*steps)[i], answer->steps(static_cast<int>(i)));
  }
  Answered<v1::DeleteStepResponse>(channel, client.DeleteStep(kUid, 1));
  const auto verified = client.VerifyStep(kUid, 1, absl::Seconds(1));
  if (const auto answer = Answered<v1::VerifyStepResponse>(channel, verified.status())) {
    VLM_CHECK(verified->damages.size() == static_cast<size_t>(answer->damages_size()), "damage lost");
    VLM_CHECK(verified->bytes == answer->bytes(), "another size");
  }
}

void AskCheckpoints(FuzzInput* input) {
  FuzzedChannel channel(&Known(), input);
  const checkpoint::CheckpointClient client(&channel, {});
  if (input->Byte() % 2 == 0) return AskOfSteps(channel, client);
  const auto attempt = client.OpenAttempt({});
  if (const auto answer = Answered<v1::OpenAttemptResponse>(channel, attempt.status())) {
    VLM_CHECK(attempt->step == answer->step() && attempt->folder == answer->folder() &&
                  attempt->cursor == answer->cursor() && attempt->final == answer->final(),
              "another step to resume from");
  }
  const auto folder = client.BeginStep({});
  if (const auto answer = Answered<v1::BeginStepResponse>(channel, folder.status())) {
    VLM_CHECK(*folder == answer->folder(), "another folder");
  }
  const auto committed = client.AddPart({});
  if (const auto answer = Answered<v1::AddPartResponse>(channel, committed.status())) {
    VLM_CHECK(*committed == answer->committed(), "a commit was made up, or lost");
  }
  const auto artifact = client.CommitArtifact(kUid, 5, "model");
  if (const auto answer = Answered<v1::CommitArtifactResponse>(channel, artifact.status())) {
    VLM_CHECK(artifact->digest == answer->digest() && artifact->folder == answer->folder() &&
                  artifact->bytes == answer->bytes() && artifact->step == answer->step(),
              "another artifact");
  }
}

// ---- the coordinator to a person ----

// Each view of what was told, for a terminal of any width.
void Show(FuzzInput* input) {
  const cli::ViewOptions options{.now = absl::FromUnixSeconds(1'700'000'000), .columns = input->Byte()};
  switch (input->Below(5)) {
    case 0:
      return CheckScreen(cli::JobListText(Built<v1::ListJobsResponse>(input), options));
    case 1:
      return CheckScreen(cli::NodeListText(Built<v1::ListNodesResponse>(input), options));
    case 2: {
      const auto steps = Built<v1::ListStepsResponse>(input);
      CheckScreen(cli::StepListText(steps, options));
      for (const v1::Step& step : steps.steps()) CheckScreen(cli::StepText(step, options));
      return;
    }
    case 3: {
      const auto job = Built<v1::GetJobResponse>(input);
      CheckScreen(cli::JobText(job.job(), options));
      return CheckScreen(cli::JobDescription(job.job(), {Built<v1::Event>(input)}, options));
    }
    default: {
      std::string screen;
      cli::Terminal terminal({.out = [&screen](std::string_view text) { screen = std::string(text); },
                              .error = nullptr,
                              .interactive = true,
                              .columns = [&options] { return options.columns; }});
      const auto width = static_cast<size_t>(std::max(2, options.columns) - 1);
      cli::FollowView view;
      absl::Duration now;
      while (!input->empty()) {
        view.SetJob(Built<v1::Job>(input));
        const auto response = Built<v1::WatchEventsResponse>(input);
        view.SetProgress(response.stage(), response.progress());
        view.SetAway(input->Byte() % 2 == 1);
        terminal.Redraw(view.LiveLines(options.now));
        // The terminal's own sequences: up and to the left, and behind each line and the last what was there before.
        std::string_view rest = screen;
        if (rest.starts_with("\x1b[")) rest.remove_prefix(rest.find('\r') + 1);
        for (size_t end; (end = rest.find("\x1b[K\n")) != std::string_view::npos; rest.remove_prefix(end + 4)) {
          CheckLine(rest.substr(0, end));
          VLM_CHECK(cli::DisplayWidth(rest.substr(0, end)) <= width, "a line that the terminal wraps");
        }
        VLM_CHECK(rest == "\x1b[J", "a sequence that is not the terminal's own");
        for (const std::string& line : view.TakePlainLines(options.now, now += absl::Seconds(3))) CheckLine(line);
        if (cli::IsFinal(view.job().state())) CheckScreen(view.Summary(options.now));
      }
    }
  }
}

// Each message that a program may ask for as JSON or YAML.
void ShowDocument(FuzzInput* input) {
  const auto types = Responses();
  auto type = std::next(types.begin(), static_cast<std::ptrdiff_t>(input->Below(types.size())));
  const std::unique_ptr<google::protobuf::Message> message(type->second->New());
  if (ReadMessage(Known(), input, message.get())) CheckDocuments(*message);
}

// Five seconds pass with every look at it, so that nobody waits.
class RunningClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return now_ += absl::Seconds(5); }
  absl::Time Wall() const override { return absl::FromUnixSeconds(1'700'000'000) + now_; }

 private:
  mutable absl::Duration now_;
};

constexpr char kJobFile[] = "/job.yaml";

FileSystem* FilesWithJob() {
  static SimulatedFileSystem* const kFiles = [] {
    auto* const files = new SimulatedFileSystem();
    PutFile(files, kJobFile,
            "apiVersion: vlm/v1\nkind: TrainingJob\nmetadata: {name: small}\nspec:\n  stages:\n    - name: generate\n"
            "      kind: generate\n      generate:\n        splits: [{name: sentences, samples: 48}]\n");
    return files;
  }();
  return kFiles;
}

cli::VerbResult RunAny(const cli::Context& context, FuzzInput* input) {
  switch (input->Below(12)) {
    case 0:
    case 1: {
      cli::SubmitArguments arguments;
      arguments.file = kJobFile;
      arguments.follow = input->Byte() % 2 == 1;
      arguments.validate_only = input->Byte() % 4 == 1;
      return cli::Submit(context, arguments);
    }
    case 2:
      return cli::ListJobs(context);
    case 3:
      return cli::GetJob(context, "job-1");
    case 4:
      return cli::DescribeJob(context, "job-1");
    case 5:
      return cli::WaitForJob(context, "job-1", absl::Hours(1));
    case 6:
      return cli::CancelJob(context, "job-1", "");
    case 7:
      return cli::RetryJob(context, "job-1", "");
    case 8:
      return cli::ListNodes(context);
    case 9:
      return cli::ListCheckpoints(context, "job-1");
    case 10:
      return input->Byte() % 2 == 0 ? cli::ShowCheckpoint(context, "job-1", "sft")
                                    : cli::VerifyCheckpoint(context, "job-1", "sft@7");
    default:
      return cli::Curve(context, {.job = "job-1", .series = "loss", .stage = input->Byte() % 2 == 0 ? "" : "sft"});
  }
}

// Whole verbs: what they print, and that their code is one of the documented and no good one after a refusal.
void RunVerb(FuzzInput* input) {
  std::string out, error;
  cli::Terminal terminal({.out = [&out](std::string_view text) { out += text; },
                          .error = [&error](std::string_view text) { error += text; }});
  RunningClock clock;
  cli::Interrupt interrupt;
  // Most jobs have the stage that the verbs ask for, or none would get further.
  FuzzedChannel channel(&Known(), input, [input](google::protobuf::Message* message) {
    auto* const job = google::protobuf::DynamicCastToGenerated<v1::GetJobResponse>(message);
    if (job == nullptr || input->Byte() >= 200) return;
    if (job->job().stages().empty()) job->mutable_job()->add_stages();
    job->mutable_job()->mutable_stages(0)->set_name("sft");
  });
  constexpr absl::Duration kNoWait = absl::Nanoseconds(1);
  cli::Service service([] { return cli::Endpoint{"127.0.0.1:1", "token"}; },
                       [&channel](const cli::Endpoint&) -> absl::StatusOr<std::unique_ptr<rpc::Channel>> {
                         return std::make_unique<ForwardingChannel>(&channel);
                       },
                       &clock, &interrupt, nullptr, {.backoff_min = kNoWait, .backoff_max = kNoWait});
  cli::Context context;
  context.files = FilesWithJob();
  context.clock = &clock;
  context.interrupt = &interrupt;
  context.terminal = &terminal;
  context.service = &service;
  context.format = static_cast<cli::OutputFormat>(input->Below(3));
  context.new_request_id = [] { return "request-1"; };
  const cli::VerbResult result = RunAny(context, input);
  if (!result.ok()) terminal.Error("vlmctl: " + std::string(result.status().message()));  // as cli/command_line.cc does
  const cli::ExitCode code = result.ok() ? *result : cli::ExitCodeOf(result.status());
  const auto documented = [code](const cli::ExitCodeRow& row) { return row.code == code; };
  VLM_CHECK(std::any_of(cli::ExitCodeTable().begin(), cli::ExitCodeTable().end(), documented), "an unknown exit code");
  VLM_CHECK(channel.last().ok() || code != cli::ExitCode::kOk, "a refusal was taken for an answer");
  VLM_CHECK(!out.empty() || !error.empty(), "nothing was said");
  CheckScreen(error);
  CheckScreen(out);
  if (code != cli::ExitCode::kOk) return;
  if (context.format == cli::OutputFormat::kJson) CheckJson(out);
  if (context.format == cli::OutputFormat::kYaml) CheckYaml(out);
}

// ---- errors ----

// The details of an error as a peer sent them, as bytes of gRPC.
absl::Status FromPeer(FuzzInput* input) {
  std::string bytes(input->Byte() % 8 == 1 ? input->Text() : "");
  const int code = 1 + static_cast<int>(input->Below(16));  // gRPC makes UNKNOWN of any other
  const std::string message(input->Text());
  if (bytes.empty()) bytes = Built<v1::ErrorStatus>(input).SerializeAsString();
  const absl::Status status = rpc::FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(code), message, bytes));
  VLM_CHECK(!status.ok(), "an error became none");
  VLM_CHECK(status.code() == static_cast<absl::StatusCode>(code), "another code");
  VLM_CHECK(status.message() == message, "another message");
  VLM_CHECK(rpc::FromGrpc(rpc::ToGrpc(status)) == status, "an error changed on its way");
  return status;
}

void ReadErrors(FuzzInput* input) {
  absl::Status status = FromPeer(input);
  const auto details = Built<v1::BadRequest>(input);
  status.SetPayload(rpc::kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  VLM_CHECK(rpc::ViolationsOf(status).size() == static_cast<size_t>(details.field_violations_size()),
            "violations lost");
  status.SetPayload(rpc::kRetryInfoUrl, absl::Cord(Built<v1::RetryInfo>(input).SerializeAsString()));
  const std::optional<absl::Duration> delay = rpc::RetryDelayOf(status);
  VLM_CHECK(delay.has_value() && *delay >= absl::ZeroDuration(), "a delay in the past");
  VLM_CHECK(rpc::RetryDelayOf(rpc::FromGrpc(rpc::ToGrpc(status))) == delay, "another delay at the client's");
  status.SetPayload(rpc::kRetryInfoUrl, absl::Cord(std::string(input->Text())));
  status.SetPayload(rpc::kBadRequestUrl, absl::Cord(std::string(input->Rest())));
  rpc::ViolationsOf(status);
  VLM_CHECK(rpc::RetryDelayOf(status).value_or(absl::ZeroDuration()) >= absl::ZeroDuration(), "a delay in the past");
}

// ---- a rank to its worker, and the coordinator to the worker ----

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

// The request of each call that the worker passes on for its ranks.
const std::map<std::string, const google::protobuf::Message*, std::less<>>& ProxiedRequests() {
  static const auto* const kRequests = [] {
    auto* const types = new std::map<std::string, const google::protobuf::Message*, std::less<>>{
        {"/vlm.v1.DataService/LeaseShards", &v1::LeaseShardsRequest::default_instance()},
        {"/vlm.v1.DataService/CommitShard", &v1::CommitShardRequest::default_instance()},
        {"/vlm.v1.DataService/FailShard", &v1::FailShardRequest::default_instance()},
        {"/vlm.v1.DataService/ListShards", &v1::ListShardsRequest::default_instance()},
        {"/vlm.v1.CheckpointService/BeginStep", &v1::BeginStepRequest::default_instance()},
        {"/vlm.v1.CheckpointService/AddPart", &v1::AddPartRequest::default_instance()},
        {"/vlm.v1.CheckpointService/DeleteStep", &v1::DeleteStepRequest::default_instance()},
        {"/vlm.v1.CheckpointService/GetStep", &v1::GetStepRequest::default_instance()},
        {"/vlm.v1.CheckpointService/GetLatest", &v1::GetLatestRequest::default_instance()},
        {"/vlm.v1.CheckpointService/VerifyStep", &v1::VerifyStepRequest::default_instance()},
    };
    CheckRequests(*types);
    return types;
  }();
  return *kRequests;
}

// A trainer that says anything to its worker, whose calls are answered with anything.
void Proxy(FuzzInput* input) {
  FuzzedChannel channel(&Known(), input);
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
  std::string method;  // that is being called
  worker::TrainerService service(executor, &relay,
                                 {.received = [](const worker::RankKey&, const v1::AttachRequest&) {},
                                  .detached = [](const worker::RankKey&) {},
                                  .leased =
                                      [&method](const worker::RankKey&, const std::vector<v1::HeldShard>&) {
                                        VLM_CHECK(method.ends_with("/LeaseShards"), "shards were leased by " + method);
                                      },
                                  .released =
                                      [&method](const v1::HeldShard&) {
                                        VLM_CHECK(method.ends_with("/CommitShard") || method.ends_with("/FailShard"),
                                                  "a shard was released by " + method);
                                      }});
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
    const auto handler =
        std::next(methods.unary.begin(), static_cast<std::ptrdiff_t>(input->Below(methods.unary.size())));
    method = handler->first;
    const auto type = ProxiedRequests().find(method);
    VLM_CHECK(type != ProxiedRequests().end(), "a method that no input reaches: " + method);
    const std::unique_ptr<google::protobuf::Message> request(type->second->New());
    const bool built = ReadMessage(Known(), input, request.get());
    auto answers = std::make_shared<int>(0);
    handler->second(context, built ? request->SerializeAsString() : std::string(input->Text()),
                    [answers, method](const absl::StatusOr<std::string>& answer) {
                      VLM_CHECK(++*answers == 1, "answered twice");
                      if (!answer.ok()) return;
                      const std::unique_ptr<google::protobuf::Message> response(Responses().at(method)->New());
                      VLM_CHECK(response->ParseFromString(*answer), "no answer of this method: " + method);
                    });
    executor->RunDue();
    executor->Advance(absl::Minutes(1));
    VLM_CHECK(*answers == 1, "a rank's call was not answered: " + method);
  }
  executor->Advance(absl::Hours(1));
  VLM_CHECK(relay.waiting() == 0, "a call was kept after its answer");
}

}  // namespace
}  // namespace vlm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  switch (input.Byte() % 6) {
    case 0:
      vlm::fuzz::AskCheckpoints(&input);
      break;
    case 1:
      vlm::fuzz::Show(&input);
      break;
    case 2:
      vlm::fuzz::ReadErrors(&input);
      break;
    case 3:
      vlm::fuzz::ShowDocument(&input);
      break;
    case 4:
      vlm::fuzz::RunVerb(&input);
      break;
    default:
      vlm::fuzz::Proxy(&input);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  Rng rng(RngKey{23});
  // Every part, each verb of RunVerb in each format, each message of ShowDocument; with bytes of every value, and three
  // times with those that message_builder.h takes for a field that is there, known where it can be, or a short text.
  for (int part = 0; part < 6; ++part) {
    for (int choice = 0; choice < 4 * 36; ++choice) {
      std::string seed = {static_cast<char>(part), static_cast<char>(5 * (choice % 36)),
                          static_cast<char>(choice % 36 / 3)};
      const bool any = choice < 36;
      for (int byte = 0; byte < (any ? 300 : 800); ++byte) {
        seed += static_cast<char>(any ? rng.Below(256) : rng.Below(2) == 0 ? rng.Below(16) : 100 + rng.Below(100));
      }
      seeds.push_back(std::move(seed));
    }
  }
  return seeds;
}
