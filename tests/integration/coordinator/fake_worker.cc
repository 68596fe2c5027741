#include "tests/integration/coordinator/fake_worker.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_system.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::coordinator {

absl::StatusOr<v1::Welcome> FakeWorker::Connect(const std::vector<v1::HeldRank>& held) {
  stream_.reset();
  channel_ = server_->ChannelAs("worker");
  inbox_ = std::make_shared<Inbox>();
  stream_ = channel_->Open("/vlm.v1.WorkerService/Session", {.wait_for_ready = true}, inbox_);
  v1::SessionRequest message;
  v1::Hello* hello = message.mutable_hello();
  hello->set_node_id(node_id_);
  hello->set_incarnation(1);
  hello->set_boot_id("boot");
  hello->set_protocol_min(1);
  hello->set_protocol_max(1);
  hello->set_state_uuid("state-of-" + node_id_);
  hello->set_hostname("localhost");
  hello->set_build("test");
  v1::Device* device = hello->add_devices();
  device->set_kind(v1::DEVICE_KIND_CPU_SLOT);
  device->set_threads(1);
  for (const v1::HeldRank& rank : held) *hello->add_held() = rank;
  Send(std::move(message));
  VLM_ASSIGN_OR_RETURN(const v1::SessionResponse response, WaitFor(v1::SessionResponse::kWelcome));
  return response.welcome();
}

absl::StatusOr<v1::SessionResponse> FakeWorker::WaitFor(v1::SessionResponse::KindCase kind) {
  while (true) {
    VLM_ASSIGN_OR_RETURN(v1::SessionResponse response, inbox_->Next<v1::SessionResponse>());
    if (response.has_check_root()) CheckRoot(response.check_root());
    if (response.kind_case() == kind) return response;
  }
}

void FakeWorker::CheckRoot(const v1::CheckRoot& check) {
  const auto read = ReadFile(PosixFileSystem(), check.root() + "/" + check.nonce_file(), 1024);
  v1::SessionRequest message;
  message.mutable_root_checked()->set_root(check.root());
  if (!read.ok() || *read != check.nonce()) message.mutable_root_checked()->set_error("the nonce is not there");
  Send(std::move(message));
}

void FakeWorker::Send(v1::SessionRequest message) {
  message.set_sequence(++sequence_);
  stream_->Send(message.SerializeAsString());
}

void FakeWorker::Ready(const v1::Assign& assign) {
  v1::SessionRequest message;
  v1::RankUpdate* update = message.mutable_rank();
  update->set_attempt_id(assign.attempt_id());
  update->set_fence(assign.fence());
  update->set_rank(assign.ranks(0).rank());
  update->mutable_endpoint()->set_boot_id("boot");
  Send(std::move(message));
}

void FakeWorker::Exit(const v1::Assign& assign, int exit_code) {
  v1::SessionRequest message;
  v1::RankResult* result = message.mutable_result();
  result->set_attempt_id(assign.attempt_id());
  result->set_fence(assign.fence());
  result->set_rank(assign.ranks(0).rank());
  result->set_exit_code(exit_code);
  if (exit_code != 0) result->set_message("the test says so");
  Send(std::move(message));
}

absl::Status FakeWorker::DoShards(const v1::Assign& assign, int stop_after) {
  for (int done = 0; stop_after < 0 || done < stop_after;) {
    v1::LeaseShardsRequest lease;
    lease.set_stage_uid(assign.spec().stage_uid());
    lease.set_fence(assign.fence());
    lease.set_rank(assign.ranks(0).rank());
    lease.set_count(1);
    VLM_ASSIGN_OR_RETURN(const auto leased, Call<v1::LeaseShardsResponse>("DataService/LeaseShards", lease));
    if (leased.done()) return absl::OkStatus();
    for (const auto& shard : leased.leases()) {
      v1::CommitShardRequest commit;
      commit.set_stage_uid(lease.stage_uid());
      commit.set_fence(lease.fence());
      commit.set_shard(shard.shard());
      commit.set_lease_id(shard.lease_id());
      if (shard.finish()) {
        VLM_RETURN_IF_ERROR(CommitStep(assign));
      } else {
        commit.mutable_output()->set_file(absl::StrCat("shard-", shard.shard(), ".tar"));
        commit.mutable_output()->set_rows(16);
      }
      VLM_RETURN_IF_ERROR(Call<v1::CommitShardResponse>("DataService/CommitShard", commit).status());
      ++done;
    }
  }
  return absl::OkStatus();
}

absl::Status FakeWorker::CommitStep(const v1::Assign& assign) {
  v1::BeginStepRequest begin;
  begin.set_stage_uid(assign.spec().stage_uid());
  begin.set_fence(assign.fence());
  begin.set_step(1);
  begin.set_world(1);
  begin.set_final(true);
  VLM_ASSIGN_OR_RETURN(const auto begun, Call<v1::BeginStepResponse>("CheckpointService/BeginStep", begin));
  VLM_ASSIGN_OR_RETURN(const checkpoint::WrittenFile file,
                       checkpoint::WriteDurableFile(PosixFileSystem(), begun.folder() + "/manifest.json", "{}"));
  v1::AddPartRequest part;
  part.set_stage_uid(begin.stage_uid());
  part.set_fence(begin.fence());
  part.set_step(1);
  v1::StepFile* claim = part.add_files();
  claim->set_name("manifest.json");
  claim->set_bytes(file.bytes);
  claim->set_digest(file.digest);
  VLM_ASSIGN_OR_RETURN(const auto added, Call<v1::AddPartResponse>("CheckpointService/AddPart", part));
  return added.committed() ? absl::OkStatus() : absl::InternalError("the only part did not commit the step");
}

}  // namespace vlm::coordinator
