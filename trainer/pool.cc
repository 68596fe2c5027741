#include "trainer/pool.h"

#include <poll.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"
#include "checkpoint/client/step_writer.h"
#include "data/indexer.h"
#include "trainer/exit_code.h"
#include "vlm/v1/data.pb.h"

namespace vlm::trainer {
namespace {

constexpr char kLease[] = "/vlm.v1.DataService/LeaseShards";
constexpr char kCommit[] = "/vlm.v1.DataService/CommitShard";
constexpr char kFail[] = "/vlm.v1.DataService/FailShard";
constexpr char kList[] = "/vlm.v1.DataService/ListShards";
constexpr int kRetryMsMax = 1000;
constexpr size_t kErrorBytesMax = 4096;  // what the coordinator keeps of a shard's error

class PoolRank {
 public:
  PoolRank(const StageContext& context, PoolStage* stage) : context_(context), stage_(stage) {}

  absl::Status Run() {
    context_.link->PostReady();
    context_.link->SetPhase(Phase::kStep);
    while (true) {
      v1::LeaseShardsRequest request;
      Identify(&request);
      request.set_rank(context_.assignment->rank);
      request.set_count(1);
      VLM_ASSIGN_OR_RETURN(const v1::LeaseShardsResponse response, Call<v1::LeaseShardsResponse>(kLease, request));
      if (response.done()) return absl::OkStatus();
      for (const auto& lease : response.leases()) VLM_RETURN_IF_ERROR(Do(lease));
      if (response.leases().empty()) {
        poll(nullptr, 0, std::min<int>(static_cast<int>(response.retry_ms()), kRetryMsMax));
      }
    }
  }

 private:
  template <typename Request>
  void Identify(Request* request) const {
    request->set_stage_uid(context_.assignment->stage_uid);
    request->set_fence(context_.assignment->fence);
  }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const char* method, const Request& request) const {
    return rpc::CallAndWait<Response>(context_.link->channel(), method, request, context_.link->call_options());
  }

  absl::Status Do(const v1::LeaseShardsResponse::Lease& lease) {
    const absl::Status done = lease.finish() ? FinishStage(lease) : DoShard(lease);
    advance_();
    // The finish task's failure ends the attempt in any case, and the rank's exit code says of what class it is.
    if (done.ok() || lease.finish()) return done;
    v1::FailShardRequest request;
    Identify(&request);
    request.set_shard(lease.shard());
    request.set_lease_id(lease.lease_id());
    request.set_error(CutUtf8({done.message().data(), done.message().size()}, kErrorBytesMax));
    Call<v1::FailShardResponse>(kFail, request).status().IgnoreError();  // the lease runs out by itself
    // What is wrong with the data may be right on the next try or another rank; what is wrong with the rank is not.
    const ExitCode code = ExitCodeOf(done);
    return code == ExitCode::kBadData || code == ExitCode::kUserError ? LogFailure(lease, done) : done;
  }

  static absl::Status LogFailure(const v1::LeaseShardsResponse::Lease& lease, const absl::Status& status) {
    absl::FPrintF(stderr, "shard %d failed: %s\n", lease.shard(), std::string(status.message()));
    return absl::OkStatus();
  }

  absl::Status DoShard(const v1::LeaseShardsResponse::Lease& lease) {
    ShardOutput output;
    const std::string folder = absl::StrFormat("f%08d", context_.assignment->fence);
    output.file =
        absl::StrFormat("%s/shard-%05d.l%06d%s", folder, lease.shard(), lease.lease_id(), stage_->extension());
    const std::string path = context_.StageFolder() + "/" + output.file;
    VLM_RETURN_IF_ERROR(MakeDirectories(context_.files, context_.StageFolder() + "/" + folder));
    VLM_ASSIGN_OR_RETURN(output.rows, stage_->WriteShard(lease.shard(), path, advance_));
    VLM_RETURN_IF_ERROR(Describe(path, &output));
    const absl::Status committed = Commit(lease, output);
    if (absl::IsAlreadyExists(committed)) return context_.files->Remove(path);  // another lease won
    if (committed.ok())
      absl::FPrintF(stderr, "shard %d: %d rows, %d bytes\n", lease.shard(), output.rows, output.bytes);
    return committed;
  }

  absl::Status Describe(const std::string& path, ShardOutput* output) const {
    VLM_RETURN_IF_ERROR(context_.files->SyncDirectory(path.substr(0, path.rfind('/'))));
    VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, context_.files->Open(path));
    output->bytes = file->size();
    VLM_ASSIGN_OR_RETURN(output->digest, data::FileDigest(*file, advance_));
    return absl::OkStatus();
  }

  absl::Status Commit(const v1::LeaseShardsResponse::Lease& lease, const ShardOutput& output) const {
    v1::CommitShardRequest request;
    Identify(&request);
    request.set_shard(lease.shard());
    request.set_lease_id(lease.lease_id());
    request.mutable_output()->set_file(output.file);
    request.mutable_output()->set_bytes(output.bytes);
    request.mutable_output()->set_rows(output.rows);
    request.mutable_output()->set_digest(output.digest);
    return Call<v1::CommitShardResponse>(kCommit, request).status();
  }

  // The finish task's output is a step, numbered by the lease. A rank that dies in the middle ends the attempt: the
  // next one has a fence, and so a path, of its own.
  absl::Status FinishStage(const v1::LeaseShardsResponse::Lease& lease) {
    context_.link->SetPhase(Phase::kPublish);
    v1::ListShardsRequest list;
    Identify(&list);
    VLM_ASSIGN_OR_RETURN(const v1::ListShardsResponse listed, Call<v1::ListShardsResponse>(kList, list));
    std::vector<ShardOutput> winners;
    for (const v1::ShardOutput& output : listed.outputs()) {
      winners.push_back({context_.StageFolder() + "/" + output.file(), output.bytes(), output.rows(), output.digest()});
    }
    VLM_ASSIGN_OR_RETURN(const std::vector<ArtifactFile> artifact, stage_->Finish(winners, advance_));

    checkpoint::Save save;
    save.step = {.stage_uid = context_.assignment->stage_uid,
                 .fence = context_.assignment->fence,
                 .step = lease.lease_id(),
                 .world = 1,
                 .cursor = "",
                 .final = true};
    for (const ArtifactFile& file : artifact) {
      checkpoint::FileToWrite write;
      write.name = file.name;
      write.contents = file.contents;
      save.step.reserve_bytes += file.contents.size();
      save.files.push_back(std::move(write));
    }
    VLM_ASSIGN_OR_RETURN(save.folder, context_.checkpoints->BeginStep(save.step));
    // On the writer's threads, one at a time, while this one waits.
    checkpoint::StepWriter writer(context_.files, context_.checkpoints, context_.clock, {.advance = advance_});
    VLM_RETURN_IF_ERROR(writer.Start(std::move(save)));
    VLM_RETURN_IF_ERROR(writer.Wait());
    return Commit(lease, {});
  }

  const StageContext& context_;
  PoolStage* const stage_;
  Progress progress_;
  const Advance advance_ = [this] {
    ++progress_.counter;
    context_.link->SetProgress(progress_);
  };
};

}  // namespace

absl::Status RunPool(const StageContext& context, PoolStage* stage) { return PoolRank(context, stage).Run(); }

}  // namespace vlm::trainer
