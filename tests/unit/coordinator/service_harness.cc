#include "tests/unit/coordinator/service_harness.h"

#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/random.h"

namespace vlm::coordinator {

CoordinatorOptions ServiceHarness::Options() {
  CoordinatorOptions options;
  options.default_artifacts = "/artifacts";
  auto rng = std::make_shared<Rng>(RngKey{17});
  options.random_bytes = [rng](size_t count) {
    std::string bytes;
    while (bytes.size() < count) bytes += static_cast<char>(rng->Below(256));
    return bytes;
  };
  return options;
}

ServiceHarness::ServiceHarness(CoordinatorOptions options) : options_(std::move(options)) { Restart(); }

void ServiceHarness::Restart() {
  core_ = std::make_unique<Coordinator>(options_);
  for (const std::string& family : RestoredFamilies()) {
    for (const auto& [key, value] : rows_[family]) EXPECT_TRUE(core_->AddRow(family, key, value).ok()) << family;
  }
  const absl::StatusOr<Outputs> outputs = core_->Start(now());
  EXPECT_TRUE(outputs.ok()) << outputs.status();
  effects_.clear();
  Settle(*outputs);
}

void ServiceHarness::Settle(const Outputs& outputs) {
  for (const Mutation& write : outputs.writes) {
    if (write.value.has_value()) {
      rows_[write.family][write.key] = *write.value;
    } else {
      rows_[write.family].erase(write.key);
    }
  }
  events_.insert(events_.end(), outputs.events.begin(), outputs.events.end());
  for (const Reply& reply : outputs.replies) replies_[reply.call] = reply;
  for (const Effect& effect : outputs.effects) effects_.push_back(effect);
  const absl::Status rules = core_->CheckInvariants();
  EXPECT_TRUE(rules.ok()) << rules;
  // The shell's part that every test wants: the nonce is written, and workers see it.
  for (const Effect& effect : outputs.effects) {
    if (const auto* nonce = std::get_if<WriteNonce>(&effect)) {
      Feed(NonceWritten{nonce->root, "nonce", "bytes", absl::OkStatus()});
    }
    const auto* send = std::get_if<SendToWorker>(&effect);
    if (send == nullptr || !send->message.has_check_root() || !answers_root_checks_) continue;
    v1::SessionRequest answer;
    answer.mutable_root_checked()->set_root(send->message.check_root().root());
    Say(send->session, answer);
  }
}

std::vector<std::string> ServiceHarness::event_kinds() const {
  std::vector<std::string> kinds;
  for (const v1::Event& event : events_) kinds.push_back(event.kind());
  return kinds;
}

void ServiceHarness::Feed(const Input& input) { Settle(core_->Handle(now(), input)); }

void ServiceHarness::Advance(absl::Duration by) {
  const absl::Duration end = now_ + by;
  while (core_->NextWake() <= end) {
    now_ = std::max(now_, core_->NextWake());
    Feed(TimePassed{});
  }
  now_ = end;
}

Reply ServiceHarness::Call(const Input& input, uint64_t call) {
  Feed(input);
  EXPECT_TRUE(replies_.contains(call)) << "every call is answered at once";
  return replies_[call];
}

spec::Stage ServiceHarness::Gang(const std::string& name, std::vector<std::string> needs, spec::Ranks ranks) {
  spec::Stage stage;
  stage.name = name;
  stage.kind = spec::StageKind::kPretrain;
  stage.needs = std::move(needs);
  stage.ranks = ranks;
  spec::TrainingSettings settings;
  settings.train.length.steps = 100;
  stage.settings = settings;
  return stage;
}

spec::Stage ServiceHarness::Pool(const std::string& name, uint32_t shards, spec::Ranks ranks) {
  spec::Stage stage;
  stage.name = name;
  stage.kind = spec::StageKind::kGenerate;
  stage.ranks = ranks;
  stage.shards = shards;
  stage.settings = spec::GenerateSettings{};
  return stage;
}

spec::Job ServiceHarness::Job(std::vector<spec::Stage> stages, const std::string& name) {
  spec::Job job;
  job.name = name;
  job.stages = std::move(stages);
  job.no_progress_restarts_max = 3;
  for (int number = 1; number <= 12; ++number) {
    job.retry[static_cast<spec::FailureClass>(number)] = {std::nullopt, absl::ZeroDuration(), 1, absl::ZeroDuration()};
  }
  job.retry[spec::FailureClass::kUserError].limit = 0;
  job.retry[spec::FailureClass::kBadData].limit = 0;
  return job;
}

std::string ServiceHarness::Submit(const spec::Job& job, const std::string& request) {
  const uint64_t call = next_call_++;
  const Reply reply = Call(SubmitJob{call, job, "yaml of " + job.name, request, "me"}, call);
  EXPECT_TRUE(reply.status.ok()) << reply.status;
  return reply.status.ok() ? std::get<v1::SubmitJobResponse>(reply.response).job_id() : "";
}

absl::StatusOr<v1::CancelJobResponse> ServiceHarness::Cancel(const std::string& job_id) {
  CancelJob cancel{next_call_++, {}, "me"};
  cancel.request.set_job_id(job_id);
  const Reply reply = Call(cancel, cancel.call);
  if (!reply.status.ok()) return reply.status;
  return std::get<v1::CancelJobResponse>(reply.response);
}

absl::StatusOr<v1::RetryJobResponse> ServiceHarness::Retry(const std::string& job_id, const std::string& request_id) {
  RetryJob retry{next_call_++, {}, "me"};
  retry.request.set_job_id(job_id);
  retry.request.set_request_id(request_id);
  const Reply reply = Call(retry, retry.call);
  if (!reply.status.ok()) return reply.status;
  return std::get<v1::RetryJobResponse>(reply.response);
}

v1::Hello ServiceHarness::Hello(const std::string& node, int slots, uint64_t incarnation) const {
  v1::Hello hello;
  hello.set_node_id(node);
  hello.set_hostname(node + ".example");
  hello.set_state_uuid("state of " + node);
  hello.set_boot_id("boot of " + node);
  hello.set_incarnation(incarnation);
  hello.set_protocol_min(1);
  hello.set_protocol_max(1);
  for (int i = 0; i < slots; ++i) {
    v1::Device* device = hello.add_devices();
    device->set_kind(v1::DEVICE_KIND_CPU_SLOT);
    device->set_index(i);
  }
  return hello;
}

uint64_t ServiceHarness::Connect(const v1::Hello& hello) {
  const uint64_t session = next_session_++;
  v1::SessionRequest message;
  *message.mutable_hello() = hello;
  Say(session, message);
  return session;
}

void ServiceHarness::Say(uint64_t session, v1::SessionRequest message) {
  Feed(FromWorker{session, std::move(message)});
}

void ServiceHarness::Beat(uint64_t session, const std::vector<v1::RankBeat>& ranks) {
  v1::SessionRequest message;
  message.mutable_beat();
  for (const v1::RankBeat& rank : ranks) *message.mutable_beat()->add_ranks() = rank;
  Say(session, message);
}

void ServiceHarness::Ready(uint64_t session, const std::string& attempt, int32_t rank) {
  v1::SessionRequest message;
  message.mutable_rank()->set_attempt_id(attempt);
  message.mutable_rank()->set_rank(rank);
  message.mutable_rank()->mutable_endpoint()->add_tcp(absl::StrCat("127.0.0.1:", 4000 + rank));
  Say(session, message);
}

void ServiceHarness::Exit(uint64_t session, const std::string& attempt, int32_t rank, int exit_code, int signal,
                          const std::string& text) {
  v1::SessionRequest message;
  v1::RankResult* result = message.mutable_result();
  result->set_attempt_id(attempt);
  result->set_rank(rank);
  result->set_exit_code(exit_code);
  result->set_signal(signal);
  result->set_message(text);
  Say(session, message);
}

void ServiceHarness::Open(const std::string& uid, uint64_t fence, uint64_t step, bool final) {
  AttemptOpened answer{uid, fence, absl::OkStatus(), {}};
  answer.response.set_step(step);
  answer.response.set_final(final);
  Feed(answer);
}

void ServiceHarness::Publish(const std::string& uid, uint64_t fence, absl::Status status) {
  ArtifactCommitted answer{uid, fence, std::move(status), {}};
  answer.response.set_digest(absl::StrCat("digest of attempt ", fence));
  answer.response.set_folder("/artifacts/folder");
  answer.response.set_step(100);
  Feed(answer);
}

v1::Stage ServiceHarness::StageView(const std::string& job_id, const std::string& stage) const {
  const v1::Job job = View(job_id);
  for (const v1::Stage& view : job.stages()) {
    if (view.name() == stage) return view;
  }
  ADD_FAILURE() << "no stage " << stage;
  return v1::Stage();
}

std::string ServiceHarness::AttemptOf(const std::string& job_id, const std::string& stage) const {
  const v1::Stage view = StageView(job_id, stage);
  return AttemptId(view.stage_uid(), view.fence());
}

void ServiceHarness::RunAttempt(const std::string& job_id, const std::string& stage,
                                const std::vector<uint64_t>& sessions) {
  const v1::Stage view = StageView(job_id, stage);
  ASSERT_EQ(view.attempt_state(), v1::ATTEMPT_STATE_FENCING) << view.reason();
  Open(view.stage_uid(), view.fence());
  const v1::Stage opened = StageView(job_id, stage);
  for (const v1::RankPlacement& rank : opened.ranks()) {
    for (const uint64_t session : sessions) {
      if (core_->NodeOf(session) == rank.node_id()) Ready(session, AttemptOf(job_id, stage), rank.rank());
    }
  }
  ASSERT_EQ(StageView(job_id, stage).attempt_state(), v1::ATTEMPT_STATE_RUNNING);
}

std::vector<v1::SessionResponse> ServiceHarness::TakeSent(uint64_t session) {
  std::vector<v1::SessionResponse> sent;
  std::vector<Effect> rest;
  for (Effect& effect : effects_) {
    auto* send = std::get_if<SendToWorker>(&effect);
    if (send != nullptr && send->session == session) {
      sent.push_back(std::move(send->message));
    } else {
      rest.push_back(std::move(effect));
    }
  }
  effects_ = std::move(rest);
  return sent;
}

std::vector<absl::Status> ServiceHarness::TakeClosed() {
  std::vector<absl::Status> closed;
  for (const Effect& effect : TakeEffects()) {
    if (const auto* close = std::get_if<CloseSession>(&effect)) closed.push_back(close->status);
  }
  return closed;
}

}  // namespace vlm::coordinator
