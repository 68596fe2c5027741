#include "tests/sim/fake_trainer.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/random.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::sim {
namespace {

constexpr absl::Duration kBeat = absl::Milliseconds(500);
constexpr int kExitDamaged = 66;
constexpr int kExitPeerLost = 69;
constexpr int kExitStorage = 74;
constexpr int kFailedSavesMax = 3;  // in a row; then the rank ends

uint64_t NextValue(uint64_t value, uint64_t step) { return Mix64(value ^ (step * 0x9e3779b97f4a7c15ull)); }

}  // namespace

uint64_t ChainValue(uint64_t steps) {
  uint64_t value = 1;
  for (uint64_t step = 1; step <= steps; ++step) value = NextValue(value, step);
  return value;
}

void GangTable::Arrive(const std::string& attempt, int32_t world, int32_t rank, uint64_t step, std::function<void()> go,
                       std::function<void()> lost) {
  Gang& gang = gangs_[attempt];
  if (!gang.gone.empty()) {
    queue_->After(queue_->Between(absl::Milliseconds(50), absl::Seconds(1)), "gang.lost", std::move(lost));
    return;
  }
  auto& arrived = gang.steps[step];
  arrived[rank] = {std::move(go), std::move(lost)};
  if (arrived.size() < static_cast<size_t>(world)) return;
  for (auto& [number, waiting] : arrived) {
    queue_->After(queue_->Between(absl::Milliseconds(1), absl::Milliseconds(5)), "gang.go", std::move(waiting.go));
  }
  gang.steps.erase(step);
}

void GangTable::Leave(const std::string& attempt, int32_t rank) {
  Gang& gang = gangs_[attempt];
  gang.gone.insert(rank);
  for (auto& [step, arrived] : gang.steps) {
    for (auto& [number, waiting] : arrived) {
      queue_->After(queue_->Between(absl::Milliseconds(50), absl::Seconds(1)), "gang.lost", std::move(waiting.lost));
    }
  }
  gang.steps.clear();
}

FakeTrainer::FakeTrainer(worker::RankKey key, int32_t pid, v1::AttemptSpec spec, EventQueue* queue,
                         SimulatedFileSystem* files, GangTable* gangs, TrainerHost* host)
    : key_(std::move(key)),
      pid_(pid),
      spec_(std::move(spec)),
      queue_(queue),
      files_(files),
      gangs_(gangs),
      host_(host),
      plan_(host->PlanOf(spec_)) {}

void FakeTrainer::Soon(absl::Duration delay, const char* label, void (FakeTrainer::*next)()) {
  queue_->After(delay, label, [self = shared_from_this(), next] {
    if (!self->Stuck()) ((*self).*next)();
  });
}

void FakeTrainer::Begin() {
  alive_ = true;
  v1::AttachRequest message;
  message.mutable_hello()->set_attempt_id(key_.attempt_id);
  message.mutable_hello()->set_rank(key_.rank);
  message.mutable_hello()->set_pid(pid_);
  host_->ToWorker(key_, message);
  Beat();
}

void FakeTrainer::Beat() {
  if (!alive_ || frozen_) return;
  v1::AttachRequest message;
  v1::RankBeat* beat = message.mutable_beat();
  beat->set_attempt_id(key_.attempt_id);
  beat->set_rank(key_.rank);
  beat->set_phase(phase_);
  beat->set_counter(counter_);
  beat->set_step(step_);
  beat->set_collective(step_);
  if (started_) host_->ToWorker(key_, message);
  queue_->After(kBeat, "trainer.beat", [self = shared_from_this()] { self->Beat(); });
}

void FakeTrainer::FromWorker(const v1::AttachResponse& message) {
  if (Stuck()) return;
  if (message.has_start() && !started_) {
    started_ = true;
    world_ = message.start().world();
    phase_ = v1::RANK_PHASE_LOAD;
    Soon(queue_->Between(absl::Milliseconds(20), absl::Milliseconds(200)), "trainer.load", &FakeTrainer::Load);
  } else if (message.has_rendezvous() && !stepping_) {
    stepping_ = true;
    phase_ = v1::RANK_PHASE_STEP;
    StepOnce();
  }
}

void FakeTrainer::Load() {
  value_ = 1;
  step_ = spec_.resume().step();
  if (step_ > 0 && !spec_.pool()) {
    const std::string path = absl::StrCat(spec_.resume().folder(), "/state-0.json");
    const auto file = files_->Open(path);
    if (!file.ok()) return Die(kExitDamaged, 0, false);
    std::string text((*file)->size(), '\0');
    if (!(*file)->ReadAt(0, std::as_writable_bytes(std::span(text.data(), text.size()))).ok()) {
      return Die(kExitDamaged, 0, false);
    }
    const std::vector<std::string> words = absl::StrSplit(text, ' ');
    if (words.size() != 2 || words[0] != absl::StrCat(step_) || !absl::SimpleAtoi(words[1], &value_)) {
      return Die(kExitDamaged, 0, false);
    }
  }
  v1::AttachRequest message;
  message.mutable_endpoint()->add_tcp(absl::StrCat("127.0.0.1:", pid_));
  host_->ToWorker(key_, message);
  if (!spec_.pool()) return;  // a gang waits for its rendezvous
  phase_ = v1::RANK_PHASE_STEP;
  AskForShards();
}

void FakeTrainer::StepOnce() {
  if (step_ >= plan_.steps) return Die(0, 0, false);  // resumed after the final commit
  gangs_->Arrive(
      key_.attempt_id, world_, key_.rank, step_ + 1,
      [self = shared_from_this()] {
        if (!self->Stuck()) self->Soon(self->plan_.step_time, "trainer.step", &FakeTrainer::Stepped);
      },
      [self = shared_from_this()] {
        if (!self->Stuck()) self->Die(kExitPeerLost, 0, false);
      });
}

void FakeTrainer::Stepped() {
  ++step_;
  ++counter_;
  value_ = NextValue(value_, step_);
  if (step_ % plan_.save_every == 0 || step_ >= plan_.steps) {
    Save();
  } else {
    StepOnce();
  }
}

void FakeTrainer::Save() {
  phase_ = v1::RANK_PHASE_SAVE;
  ++counter_;
  v1::BeginStepRequest request;
  request.set_stage_uid(spec_.stage_uid());
  request.set_fence(key_.fence);
  request.set_step(step_);
  request.set_world(world_);
  request.set_parent_step(spec_.resume().step());
  request.set_cursor(absl::StrCat(step_));
  request.set_final(step_ >= plan_.steps);
  part_final_ = request.final();
  host_->CallCheckpoint(key_, request, [self = shared_from_this()](const auto& response) {
    if (self->Stuck()) return;
    if (!response.ok()) return self->Fail(response.status());
    self->WriteStep(std::get<v1::BeginStepResponse>(*response).folder(), self->step_,
                    absl::StrCat("state-", self->key_.rank, ".json"), absl::StrCat(self->step_, " ", self->value_),
                    &FakeTrainer::ReportPart);
  });
}

// The file is begun now and made durable a moment later: a crash of the disk may come between.
void FakeTrainer::WriteStep(const std::string& folder, uint64_t step, const std::string& name,
                            const std::string& contents, void (FakeTrainer::*written)()) {
  absl::StatusOr<std::unique_ptr<checkpoint::DurableFileWriter>> writer =
      checkpoint::DurableFileWriter::Create(files_, absl::StrCat(folder, "/", name), contents.size());
  if (!writer.ok()) return Fail(writer.status());
  if (absl::Status status = (*writer)->Append(std::string_view(contents)); !status.ok()) return Fail(status);
  const std::shared_ptr<checkpoint::DurableFileWriter> file = *std::move(writer);
  queue_->After(queue_->Between(absl::Milliseconds(1), absl::Milliseconds(40)), "trainer.write",
                [self = shared_from_this(), file, step, name, written] {
                  if (self->Stuck()) return;
                  const absl::StatusOr<checkpoint::WrittenFile> done = file->Finish();
                  if (!done.ok()) return self->Fail(done.status());
                  self->part_.Clear();
                  self->part_.set_stage_uid(self->spec_.stage_uid());
                  self->part_.set_fence(self->key_.fence);
                  self->part_.set_step(step);
                  self->part_.set_rank(self->spec_.pool() ? 0 : self->key_.rank);
                  v1::StepFile* claimed = self->part_.add_files();
                  claimed->set_name(name);
                  claimed->set_bytes(done->bytes);
                  claimed->set_digest(done->digest);
                  ((*self).*written)();
                });
}

void FakeTrainer::ReportPart() {
  host_->CallCheckpoint(key_, part_, [self = shared_from_this()](const auto& response) {
    if (self->Stuck()) return;
    if (!response.ok()) return self->Fail(response.status());
    ++self->counter_;
    self->failed_saves_ = 0;
    const bool committed = std::get<v1::AddPartResponse>(*response).committed();
    if (!self->part_final_) {
      self->phase_ = v1::RANK_PHASE_STEP;
      return self->StepOnce();
    }
    // A rank ends only after its final commit is confirmed.
    if (!committed) return self->Soon(absl::Milliseconds(200), "trainer.part", &FakeTrainer::ReportPart);
    if (!self->spec_.pool()) return self->Die(0, 0, false);
    self->CommitShard();
  });
}

void FakeTrainer::AskForShards() {
  coordinator::LeaseShards input;
  input.node_id = host_->node_id();
  input.request.set_stage_uid(spec_.stage_uid());
  input.request.set_fence(key_.fence);
  input.request.set_rank(key_.rank);
  input.request.set_count(2);
  host_->CallData(
      key_,
      [input](uint64_t call) {
        coordinator::LeaseShards numbered = input;
        numbered.call = call;
        return coordinator::Input(numbered);
      },
      [self = shared_from_this()](const coordinator::Reply& reply) {
        if (!self->Stuck()) self->Leased(reply);
      });
}

void FakeTrainer::Leased(const coordinator::Reply& reply) {
  if (!reply.status.ok()) return Fail(reply.status);
  const auto& response = std::get<v1::LeaseShardsResponse>(reply.response);
  ++counter_;
  if (response.done()) return Die(0, 0, false);
  if (response.leases().empty()) {
    return Soon(absl::Milliseconds(response.retry_ms()), "trainer.ask", &FakeTrainer::AskForShards);
  }
  leases_.assign(response.leases().begin(), response.leases().end());
  std::vector<v1::HeldShard> held;
  for (const auto& lease : leases_) {
    v1::HeldShard& shard = held.emplace_back();
    shard.set_stage_uid(spec_.stage_uid());
    shard.set_fence(key_.fence);
    shard.set_shard(lease.shard());
    shard.set_lease_id(lease.lease_id());
  }
  host_->ShardsTaken(key_, std::move(held));
  WorkOnShard();
}

void FakeTrainer::WorkOnShard() {
  if (leases_.empty()) return AskForShards();
  ++counter_;
  Soon(plan_.shard_time, "trainer.shard",
       leases_.front().finish() ? &FakeTrainer::FinishPool : &FakeTrainer::CommitShard);
}

void FakeTrainer::CommitShard() {
  const v1::LeaseShardsResponse::Lease lease = leases_.front();
  v1::CommitShardRequest request;
  request.set_stage_uid(spec_.stage_uid());
  request.set_fence(key_.fence);
  request.set_shard(lease.shard());
  request.set_lease_id(lease.lease_id());
  if (!lease.finish()) {
    request.mutable_output()->set_file(absl::StrCat("shard-", lease.shard(), ".l", lease.lease_id()));
    request.mutable_output()->set_bytes(1);
  }
  host_->CallData(
      key_,
      [request, node_id = host_->node_id()](uint64_t call) {
        return coordinator::Input(coordinator::CommitShard{call, node_id, request});
      },
      [self = shared_from_this(), request](const coordinator::Reply& reply) {
        if (self->Stuck()) return;
        v1::HeldShard held;
        held.set_stage_uid(request.stage_uid());
        held.set_fence(request.fence());
        held.set_shard(request.shard());
        held.set_lease_id(request.lease_id());
        self->host_->ShardDropped(held);
        if (!reply.status.ok() && reply.status.code() != absl::StatusCode::kAlreadyExists) {
          return self->Fail(reply.status);
        }
        self->leases_.erase(self->leases_.begin());
        self->WorkOnShard();
      });
}

// Writes the winners into the stage's one final step.
void FakeTrainer::FinishPool() {
  v1::ListShardsRequest list;
  list.set_stage_uid(spec_.stage_uid());
  list.set_fence(key_.fence);
  host_->CallData(
      key_,
      [list, node_id = host_->node_id()](uint64_t call) {
        return coordinator::Input(coordinator::ListShards{call, node_id, list});
      },
      [self = shared_from_this()](const coordinator::Reply& reply) {
        if (self->Stuck()) return;
        if (!reply.status.ok()) return self->Fail(reply.status);
        std::string winners;
        for (const auto& output : std::get<v1::ListShardsResponse>(reply.response).outputs()) {
          absl::StrAppend(&winners, output.file(), "\n");
        }
        v1::BeginStepRequest begin;
        begin.set_stage_uid(self->spec_.stage_uid());
        begin.set_fence(self->key_.fence);
        begin.set_step(1);
        begin.set_world(1);
        begin.set_final(true);
        self->part_final_ = true;
        self->host_->CallCheckpoint(self->key_, begin, [self, winners](const auto& response) {
          if (self->Stuck()) return;
          if (!response.ok()) return self->Fail(response.status());
          self->WriteStep(std::get<v1::BeginStepResponse>(*response).folder(), 1, "manifest.json", winners,
                          &FakeTrainer::ReportPart);
        });
      });
}

// A save that fails costs only itself: its step is given up, and training goes on. The last one must succeed.
void FakeTrainer::Fail(const absl::Status& status) {
  if (phase_ == v1::RANK_PHASE_SAVE && !part_final_ && ++failed_saves_ < kFailedSavesMax) {
    v1::DeleteStepRequest give_up;
    give_up.set_stage_uid(spec_.stage_uid());
    give_up.set_fence(key_.fence);
    give_up.set_step(step_);
    host_->CallCheckpoint(key_, give_up, [](const auto&) {});
    phase_ = v1::RANK_PHASE_STEP;
    return StepOnce();
  }
  v1::AttachRequest message;
  message.mutable_failure()->set_exit_code(kExitStorage);
  message.mutable_failure()->set_message(status.ToString());
  host_->ToWorker(key_, message);
  Die(kExitStorage, 0, false);
}

void FakeTrainer::Signal(int signal) {
  if (!alive_ || (frozen_ && signal != 9)) return;
  queue_->After(queue_->Between(absl::Milliseconds(1), absl::Milliseconds(300)), "trainer.signal",
                [self = shared_from_this(), signal] { self->Die(0, signal, false); });
}

void FakeTrainer::Die(int exit_code, int signal, bool oom) {
  if (!alive_) return;
  alive_ = false;
  if (!spec_.pool() && !(exit_code == 0 && signal == 0)) gangs_->Leave(key_.attempt_id, key_.rank);
  host_->Exited(key_, exit_code, signal, oom);
}

void FakeTrainer::Vanish() {
  if (!alive_) return;
  alive_ = false;
  if (!spec_.pool()) gangs_->Leave(key_.attempt_id, key_.rank);
}

}  // namespace vlm::sim
