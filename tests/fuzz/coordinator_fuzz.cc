// The coordinator's core against any row of messages: what workers, ranks, people and the checkpoint service may send,
// in any order, with values that it knows and values that nobody gave it.
//
// After each message its rules of memory hold, a call is answered exactly once, its epoch never goes back, and the rows
// written so far open again; damaged rows are an error or are lived with. Some operations answer as a well-behaved
// worker does, so that attempts run and end.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "coordinator/core/coordinator.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"

namespace vlm::coordinator {
namespace {

using fuzz::FuzzInput;

constexpr int kOperationsMax = 96;
constexpr uint64_t kSessions = 3;
constexpr int kWakesMax = 64;

// `patient`: nothing is retried. `free`: the gang waits for nobody and stands first.
spec::Job TwoStages(bool patient, bool free) {
  spec::Job job;
  job.name = patient ? "patient" : "job";
  spec::Stage pool;
  pool.name = "generate";
  pool.kind = spec::StageKind::kGenerate;
  pool.ranks = {1, 2};
  pool.shards = 2;
  pool.settings = spec::GenerateSettings{};
  spec::Stage gang;
  gang.name = "pretrain";
  gang.kind = spec::StageKind::kPretrain;
  if (!free) gang.needs = {pool.name};
  gang.ranks = {1, 2};
  gang.settings = spec::TrainingSettings{};
  job.stages = free ? std::vector<spec::Stage>{gang, pool} : std::vector<spec::Stage>{pool, gang};
  job.no_progress_restarts_max = 2;
  for (int number = 1; number <= 12; ++number) {
    job.retry[static_cast<spec::FailureClass>(number)] = {patient ? 0 : 2, absl::Seconds(1), 2, absl::Seconds(8)};
  }
  return job;
}

class FuzzedCoordinator {
 public:
  explicit FuzzedCoordinator(FuzzInput* input) : input_(*input) { Start(); }

  void Run() {
    for (int operation = 0; operation < kOperationsMax && !input_.empty(); ++operation) Operate();
    Start();
    DamageRows();
  }

 private:
  void Start() {
    core_ = NewCore();
    for (const std::string& family : RestoredFamilies()) {
      for (const auto& [key, value] : rows_[family]) {
        const absl::Status added = core_->AddRow(family, key, value);
        VLM_CHECK(added.ok(), added.ToString());
      }
    }
    absl::StatusOr<Outputs> started = core_->Start(now());
    VLM_CHECK(started.ok(), started.status().ToString());
    Settle(*std::move(started));
  }

  // One row changed: an error of the start, or a service that goes on.
  void DamageRows() {
    if (input_.empty()) return;
    const std::vector<std::string> families = RestoredFamilies();
    auto& family = rows_[input_.Pick(families)];
    if (family.empty()) return;
    std::string& value = std::next(family.begin(), static_cast<std::ptrdiff_t>(input_.Below(family.size())))->second;
    if (value.empty()) return;
    value[input_.Byte() % value.size()] = static_cast<char>(input_.Byte());
    core_ = NewCore();
    absl::Status added;
    for (const std::string& name : families) {
      for (const auto& [key, row] : rows_[name]) added.Update(core_->AddRow(name, key, row));
    }
    if (added.ok()) added = core_->Start(now()).status();
    VLM_CHECK(added.ok() || !added.message().empty(), "damaged rows are refused without a reason");
  }

  std::unique_ptr<Coordinator> NewCore() {
    CoordinatorOptions options;
    options.default_artifacts = "/artifacts";
    options.random_bytes = [this](size_t count) {
      std::string bytes;
      while (bytes.size() < count) bytes += static_cast<char>(rng_.Below(256));
      return bytes;
    };
    return std::make_unique<Coordinator>(std::move(options));
  }

  Now now() const { return {now_, absl::FromUnixSeconds(1'700'000'000) + now_}; }

  void Feed(const Input& input) { Settle(core_->Handle(now(), input)); }

  void Settle(const Outputs& outputs) {
    for (const Mutation& write : outputs.writes) {
      if (write.value.has_value()) {
        rows_[write.family][write.key] = *write.value;
      } else {
        rows_[write.family].erase(write.key);
      }
      if (write.family == kStageFamily) Learn("stage_uid", write.key);
      if (write.family == kJobFamily) Learn("job_id", write.key);
    }
    for (const Reply& reply : outputs.replies) {
      VLM_CHECK(reply.call == call_ && !answered_, "an answer to no call, or a second one");
      answered_ = true;
      if (const auto* leases = std::get_if<v1::LeaseShardsResponse>(&reply.response)) {
        for (const auto& lease : leases->leases()) Learn("lease_id", lease.lease_id());
        leased_.assign(leases->leases().begin(), leases->leases().end());
      }
    }
    const absl::Status rules = core_->CheckInvariants();
    VLM_CHECK(rules.ok(), rules.ToString());
    VLM_CHECK(core_->epoch() >= epoch_, "the epoch goes back");
    epoch_ = core_->epoch();
    for (const Effect& effect : outputs.effects) Note(effect);
    AnswerNonces();
  }

  void Note(const Effect& effect) {
    if (const auto* nonce = std::get_if<WriteNonce>(&effect)) nonces_.push_back(nonce->root);
    if (std::holds_alternative<OpenAttempt>(effect) || std::holds_alternative<CommitArtifact>(effect) ||
        std::holds_alternative<VerifyStep>(effect)) {
      effects_.push_back(effect);
    }
    const auto* send = std::get_if<SendToWorker>(&effect);
    if (send == nullptr) return;
    if (send->message.has_check_root()) roots_.emplace_back(send->session, send->message.check_root().root());
    if (send->message.has_assign()) {
      const v1::Assign& assign = send->message.assign();
      Learn("attempt_id", assign.attempt_id());
      Learn("fence", assign.fence());
      assigned_ = {send->session, assign};
    }
  }

  // Written and read at once, so that workers are usable; an operation says otherwise.
  void AnswerNonces() {
    while (!nonces_.empty() || !roots_.empty()) {
      if (!nonces_.empty()) {
        const std::string root = std::exchange(nonces_.front(), "");
        nonces_.pop_front();
        Feed(NonceWritten{root, "nonce", "bytes", absl::OkStatus()});
        continue;
      }
      const auto [session, root] = roots_.front();
      roots_.pop_front();
      v1::SessionRequest message;
      message.mutable_root_checked()->set_root(root);
      Feed(FromWorker{session, std::move(message)});
    }
  }

  void Call(const Input& input) {
    answered_ = false;
    Feed(input);
    VLM_CHECK(answered_, "a call was not answered");
    call_ = 0;
  }
  uint64_t NewCall() { return call_ = next_call_++; }

  template <typename Message>
  Message Read() {
    Message message;
    ReadMessage(known_, &input_, &message);
    return message;
  }

  void Learn(const std::string& field, const std::string& value) {
    auto& values = known_.texts[field];
    if (values.size() < 8 && std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  void Learn(const std::string& field, uint64_t value) {
    auto& values = known_.numbers[field];
    if (values.size() < 16) values.push_back(value);
  }

  std::string AnyText(const char* field) {
    const auto& values = known_.texts[field];
    return values.empty() ? std::string(input_.Text()) : input_.Pick(values);
  }
  uint64_t AnyNumber(const char* field) {
    const auto& values = known_.numbers[field];
    return values.empty() || input_.Byte() > 224 ? input_.Number() : input_.Pick(values);
  }

  // ---- what happens ----
  void Operate() {
    const size_t operation = input_.Below(24);
    if (operation < 6) {
      BehaveWell(operation);
    } else if (operation < 12) {
      SayAnything(operation);
    } else if (operation < 18) {
      CallAnything(operation);
    } else {
      AnswerAnything(operation);
    }
  }

  uint64_t Session() { return 1 + (input_.Below(kSessions)) + kSessions * incarnation_; }

  void BehaveWell(size_t operation) {
    switch (operation) {
      case 0:
        return SayHello();
      case 1:
        return Submit();
      case 2:
        return Answer();
      case 3:
        return Advance(absl::Milliseconds(static_cast<int64_t>(input_.Byte()) * 250));
      case 4:
        return SayOfRanks([&](v1::SessionRequest* message, const v1::Assign& assign, int32_t rank) {
          message->mutable_rank()->set_attempt_id(assign.attempt_id());
          message->mutable_rank()->set_fence(assign.fence());
          message->mutable_rank()->set_rank(rank);
          message->mutable_rank()->mutable_endpoint()->add_tcp("127.0.0.1:4000");
        });
      default: {
        const int32_t exit_code = std::vector<int32_t>{0, 0, 70, 80, 64, 79}[input_.Below(6)];
        return SayOfRanks([&](v1::SessionRequest* message, const v1::Assign& assign, int32_t rank) {
          message->mutable_result()->set_attempt_id(assign.attempt_id());
          message->mutable_result()->set_fence(assign.fence());
          message->mutable_result()->set_rank(rank);
          message->mutable_result()->set_exit_code(exit_code);
        });
      }
    }
  }

  void Submit() {
    const uint8_t choice = input_.Byte();
    Call(SubmitJob{NewCall(), TwoStages(choice % 4 == 1, choice >= 128), "yaml", absl::StrCat("r", input_.Below(3)),
                   "me"});
  }

  // As a pool's rank does: leases what there is and commits it.
  void DoShards() {
    const std::string uid = StageUidOf(assigned_.second.attempt_id());
    LeaseShards lease{NewCall(), core_->NodeOf(assigned_.first), {}};
    lease.request.set_stage_uid(uid);
    lease.request.set_fence(assigned_.second.fence());
    lease.request.set_count(1 + input_.Below(4));
    if (!assigned_.second.ranks().empty()) lease.request.set_rank(assigned_.second.ranks(0).rank());
    leased_.clear();
    Call(lease);
    for (const v1::LeaseShardsResponse::Lease& one : std::exchange(leased_, {})) {
      CommitShard commit{NewCall(), lease.node_id, {}};
      commit.request.set_stage_uid(uid);
      commit.request.set_fence(lease.request.fence());
      commit.request.set_shard(one.shard());
      commit.request.set_lease_id(one.lease_id());
      Call(commit);
    }
  }

  void SayHello() {
    const uint64_t session = Session();
    v1::SessionRequest message;
    v1::Hello& hello = *message.mutable_hello();
    const std::string node = absl::StrCat("node-", session % kSessions);
    hello.set_node_id(node);
    hello.set_state_uuid("state of " + node);
    hello.set_boot_id("boot");
    hello.set_incarnation(1 + incarnation_ + input_.Below(2));
    hello.set_protocol_min(1);
    hello.set_protocol_max(1);
    hello.add_devices()->set_kind(v1::DEVICE_KIND_CPU_SLOT);
    Feed(FromWorker{session, std::move(message)});
  }

  template <typename Fill>
  void SayOfRanks(const Fill& fill) {
    const auto [session, assign] = assigned_;
    for (const v1::RankSlot& slot : assign.ranks()) {
      v1::SessionRequest message;
      fill(&message, assign, slot.rank());
      Feed(FromWorker{session, std::move(message)});
    }
  }

  // As the checkpoint service answers the oldest call.
  void Answer() {
    if (effects_.empty()) return;
    const Effect effect = std::move(effects_.front());
    effects_.pop_front();
    const uint64_t step = input_.Byte();
    if (const auto* open = std::get_if<OpenAttempt>(&effect)) {
      AttemptOpened answer{open->request.stage_uid(), open->request.fence(), absl::OkStatus(), {}};
      answer.response.set_step(step % 4);
      answer.response.set_final(step > 200);
      Feed(answer);
    } else if (const auto* commit = std::get_if<CommitArtifact>(&effect)) {
      ArtifactCommitted answer{commit->request.stage_uid(), commit->request.fence(), absl::OkStatus(), {}};
      if (step > 200) answer.status = absl::DataLossError("files are missing");
      answer.response.set_digest("digest");
      answer.response.set_folder("/artifacts/folder");
      Feed(answer);
    } else if (const auto* verify = std::get_if<VerifyStep>(&effect)) {
      StepVerified answer{verify->for_stage, verify->request, absl::OkStatus(), {}};
      if (step > 200) answer.response.add_damages()->set_detail("flipped");
      Feed(answer);
    }
  }

  void Advance(absl::Duration by) {
    const absl::Duration end = now_ + by;
    for (int wakes = 0; core_->NextWake() <= end && wakes < kWakesMax; ++wakes) {
      now_ = std::max(now_, core_->NextWake());
      Feed(TimePassed{});
    }
    now_ = end;
    Feed(TimePassed{});
  }

  void SayAnything(size_t operation) {
    if (operation == 6) return Feed(SessionClosed{Session()});
    if (operation == 7) {
      ++incarnation_;  // streams are numbered anew
      return Start();
    }
    if (operation == 8) return DoShards();
    Feed(FromWorker{Session(), Read<v1::SessionRequest>()});
  }

  void CallAnything(size_t operation) {
    const std::string node = absl::StrCat("node-", input_.Below(kSessions));
    switch (operation) {
      case 12:
        return Call(CancelJob{NewCall(), Read<v1::CancelJobRequest>(), "me"});
      case 13:
        return Call(RetryJob{NewCall(), Read<v1::RetryJobRequest>(), "me"});
      case 14:
        return Call(LeaseShards{NewCall(), node, Read<v1::LeaseShardsRequest>()});
      case 15:
        return Call(CommitShard{NewCall(), node, Read<v1::CommitShardRequest>()});
      case 16:
        return Call(FailShard{NewCall(), node, Read<v1::FailShardRequest>()});
      default:
        return Call(ListShards{NewCall(), node, Read<v1::ListShardsRequest>()});
    }
  }

  void AnswerAnything(size_t operation) {
    const absl::Status status = input_.Byte() < 160 ? absl::OkStatus() : absl::UnavailableError("away");
    switch (operation) {
      case 18:
        return Feed(AttemptOpened{AnyText("stage_uid"), AnyNumber("fence"), status, Read<v1::OpenAttemptResponse>()});
      case 19:
        return Feed(
            ArtifactCommitted{AnyText("stage_uid"), AnyNumber("fence"), status, Read<v1::CommitArtifactResponse>()});
      case 20:
        return Feed(
            StepVerified{AnyText("stage_uid"), Read<v1::VerifyStepRequest>(), status, Read<v1::VerifyStepResponse>()});
      case 21:
        return Feed(StepCommitted{AnyText("stage_uid"), AnyNumber("fence"), input_.Number()});
      case 22:
        return Feed(NonceWritten{"/artifacts", std::string(input_.Text()), std::string(input_.Text()), status});
      default:
        Look();
    }
  }

  // What people ask for.
  void Look() {
    const std::string job = AnyText("job_id");
    const absl::StatusOr<v1::Job> view = core_->GetJob(job);
    if (view.ok()) VLM_CHECK(view->job_id() == job && view->stages_size() == 2, "another job was shown");
    core_->ListJobs(Read<v1::ListJobsRequest>()).IgnoreError();
    core_->ListNodes();
    core_->GetProgress(job, input_.Byte() % 2 == 0 ? "generate" : input_.Text()).IgnoreError();
    core_->CheckWriter(AnyText("stage_uid"), AnyNumber("fence"), absl::StrCat("node-", input_.Below(kSessions)))
        .IgnoreError();
    core_->Count();
    core_->Waited(now_);
  }

  FuzzInput& input_;
  Rng rng_{RngKey{7}};
  std::unique_ptr<Coordinator> core_;
  absl::Duration now_ = absl::Seconds(100);
  std::map<std::string, std::map<std::string, std::string>> rows_;
  std::deque<Effect> effects_;  // calls of the checkpoint service that wait for an answer
  std::deque<std::string> nonces_;
  std::deque<std::pair<uint64_t, std::string>> roots_;
  std::pair<uint64_t, v1::Assign> assigned_;            // the newest, and its session
  std::vector<v1::LeaseShardsResponse::Lease> leased_;  // by the newest call
  uint64_t incarnation_ = 0, epoch_ = 0, call_ = 0, next_call_ = 1;
  bool answered_ = false;
  fuzz::KnownValues known_ = {{{"node_id", {"node-0", "node-1", "node-2"}},
                               {"root", {"/artifacts"}},
                               {"stage", {"generate", "pretrain"}},
                               {"request_id", {"r0", "r1"}}},
                              {{"fence", {1, 2}},
                               {"rank", {0, 1}},
                               {"shard", {0, 1, 2}},
                               {"protocol_min", {1}},
                               {"protocol_max", {1}},
                               {"incarnation", {1, 2, 3}},
                               {"kind", {0, 1, 2}}}};
};

}  // namespace
}  // namespace vlm::coordinator

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  vlm::coordinator::FuzzedCoordinator(&input).Run();
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  // Two workers, a job; its attempt opens, is assigned, ready, and ends (well, or badly and again).
  const std::string begin("\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00\x04", 12);
  std::vector<std::string> seeds = {begin, begin + std::string("\x05\x00\x02\x00\x03\x08", 6),
                                    begin + std::string("\x05\x02\x03\x20\x02\x00\x04\x05\x00", 9),
                                    // A gang of two; a pool that does all its shards.
                                    std::string("\x00\x00\x00\x00\x01\x00\x01\x80\x00\x02\x00\x04\x05\x00", 14),
                                    begin + std::string("\x08\x03\x08\x03\x05\x00\x02\x00\x02\x00\x04\x05\x00", 13),
                                    begin + std::string("\x07\x00\x00\x00\x03\xff\x03\xff", 8)};
  // The pool's shards are leased and committed; then anything.
  Rng rng(RngKey{11});
  for (int i = 0; i < 12; ++i) {
    std::string seed = begin;
    for (int byte = 0; byte < 400; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
