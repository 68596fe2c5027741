// The rules of the simulation: what must hold after every event, and at the end.
#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/sim/simulation.h"
#include "vlm/v1/record.pb.h"

namespace vlm::sim {
namespace {

constexpr size_t kTrailMax = 80;
// Loading the store costs as much as hundreds of inputs.
constexpr uint64_t kInputsPerLook = 100;
constexpr uint64_t kCatalogInputsPerLook = 16;

std::pair<std::string, uint32_t> ShardOf(const std::string& key) {
  const std::string uid = key.substr(0, key.size() - 4);
  return {uid, static_cast<uint32_t>(coordinator::DecodeU64(std::string(4, '\0') + key.substr(uid.size())))};
}

}  // namespace

// The watch: every event once, in order, across restarts.
void Simulation::OnEvent(const v1::Event& event) {
  trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " ", event.sequence(), " ", event.job_id(), "/",
                                event.stage(), " f", event.fence(), " ", event.kind(), ": ", event.reason()));
  if (trail_.size() > kTrailMax) trail_.erase(trail_.begin());
  // What was stored and not told before a crash is read from the store, as a reconnecting client does. While the
  // service runs, every event is told.
  const bool reconnected = std::exchange(watch_reconnects_, false);
  while (reconnected && last_event_ + 1 < event.sequence()) {
    const auto row = service_.store().Get(coordinator::kEventFamily, coordinator::EventKey(last_event_ + 1));
    v1::Event missed;
    if (!row.ok() || !row->has_value() || !missed.ParseFromString(**row) || missed.sequence() != last_event_ + 1) {
      return Fail(absl::StrCat("the watch has a gap: ", event.sequence(), " after ", last_event_));
    }
    Watched(missed);
  }
  if (event.sequence() != last_event_ + 1) {
    return Fail(absl::StrCat("the watch repeats or has a gap: ", event.sequence(), " after ", last_event_));
  }
  Watched(event);
}

void Simulation::Watched(const v1::Event& event) {
  last_event_ = event.sequence();
  if (event.kind() == "stage.publishing" && world_.hostile && aims_at_publishing_ && queue_.Chance(0.3)) {
    ++result_.publishing_crashes;
    queue_.After(queue_.Between(absl::ZeroDuration(), absl::Milliseconds(30)), "fault.publishing",
                 [this] { CrashService(); });
  }
  if (event.kind() == "attempt.fencing") ++result_.attempts;
  if (event.kind() == "worker.lost") ++result_.worker_losses;
  if (event.kind() == "stage.reused") ++result_.reused_stages;
}

// An acknowledged submit exists, once.
void Simulation::CheckAcknowledged() {
  if (!service_.up()) return;
  for (const Submitted& submitted : jobs_) {
    if (submitted.job_id.empty()) continue;
    const absl::StatusOr<v1::Job> job = service_.coordinator()->GetJob(submitted.job_id);
    if (!job.ok()) Fail(absl::StrCat("an acknowledged job is gone: ", submitted.job_id));
  }
  v1::ListJobsRequest request;
  const absl::StatusOr<v1::ListJobsResponse> list = service_.coordinator()->ListJobs(request);
  if (!list.ok() || static_cast<size_t>(list->jobs_size()) > jobs_.size()) Fail("a request made more than one job");
}

void Simulation::OnAttemptOpened(const std::string& stage_uid, uint64_t fence) { rules_.Opened(stage_uid, fence); }

void Simulation::OnCatalogDecided(const checkpoint::CheckpointCore& core,
                                  const std::vector<checkpoint::CatalogEvent>& events) {
  rules_.Decided(core, events);
  if (++catalog_inputs_ % kCatalogInputsPerLook == 0) rules_.CheckFiles(/*contents=*/false);
}

void Simulation::OnCatalogEvent(const checkpoint::CatalogEvent& event) {
  if (event.kind == checkpoint::CatalogEvent::Kind::kAborted) ++result_.aborted_steps;
  rules_.Told(event);
}

// Only this takes files away.
void Simulation::OnEffectDone(const checkpoint::Effect& effect) {
  if (effect.kind == checkpoint::Effect::Kind::kRemoveFolder) rules_.CheckFiles(/*contents=*/false);
}

void Simulation::OnWrites(const std::vector<Mutation>& writes) {
  bool jobs = false;
  for (const Mutation& write : writes) {
    if (write.family == coordinator::kShardFamily) CheckShardWrite(write);
    if (write.family == coordinator::kNodeFamily) CheckNodeWrite(write);
    jobs = jobs || write.family == coordinator::kJobFamily || write.family == coordinator::kRequestFamily;
  }
  // Nothing else makes a job or takes one away.
  if (jobs) CheckAcknowledged();
  if (++inputs_ % kInputsPerLook == 0) {
    queue_.After(absl::ZeroDuration(), "check.stored", [this] { CheckStored(); });
  }
}

// A slot is given on when its process is gone. A worker that was forgotten is another matter.
void Simulation::CheckNodeWrite(const Mutation& write) {
  if (!write.value.has_value()) {
    world_.forgotten.insert(write.key);
    return;
  }
  v1::NodeRecord record;
  if (!record.ParseFromString(*write.value)) return Fail("a node row does not parse");
  for (const auto& worker : workers_) {
    if (worker->node_id() == write.key) worker->CheckTaken(record);
  }
}

// Whatever is decided is what a restart finds.
void Simulation::CheckStored() {
  if (!service_.up()) return;
  const std::string difference = service_.CompareWithStore();
  if (!difference.empty()) Fail(difference);
}

// A shard is DONE once: its row never changes to another lease.
void Simulation::CheckShardWrite(const Mutation& write) {
  const auto [uid, shard] = ShardOf(write.key);
  if (!write.value.has_value()) {
    // Only the finish task is done again, when what it wrote was lost, and what failed too often.
    shard_winners_.erase({uid, shard});
    return;
  }
  v1::ShardRecord record;
  if (!record.ParseFromString(*write.value)) return Fail("a shard row does not parse");
  const auto row = service_.store().Get(coordinator::kShardFamily, write.key);
  v1::ShardRecord before;
  const bool done = row.ok() && row->has_value() && before.ParseFromString(**row) && !before.poisoned();
  if (done && before.lease_id() != record.lease_id()) {
    Fail(absl::StrCat("shard ", shard, " was done by lease ", before.lease_id(), " and again by ", record.lease_id()));
  }
}

void Simulation::CheckShardsStored() {
  for (const auto& [key, lease_id] : shard_winners_) {
    const auto row = service_.store().Get(coordinator::kShardFamily, coordinator::ShardKey(key.first, key.second));
    v1::ShardRecord record;
    if (row.ok() && row->has_value() && record.ParseFromString(**row) && record.lease_id() == lease_id) continue;
    Fail(absl::StrCat("shard ", key.second, " was done by lease ", lease_id, " and is not any more"));
  }
}

void Simulation::OnDataAnswer(const coordinator::Input& input, const coordinator::Reply& reply) {
  if (const auto* leased = std::get_if<v1::LeaseShardsResponse>(&reply.response)) {
    for (const auto& lease : leased->leases()) {
      if (!lease_ids_.insert(lease.lease_id()).second)
        Fail(absl::StrCat("a lease id was used twice: ", lease.lease_id()));
    }
  }
  const auto* commit = std::get_if<coordinator::CommitShard>(&input);
  if (commit == nullptr || !reply.status.ok()) return;
  const auto [it, first] =
      shard_winners_.try_emplace({commit->request.stage_uid(), commit->request.shard()}, commit->request.lease_id());
  if (!first && it->second != commit->request.lease_id()) {
    Fail(absl::StrCat("two leases were told that shard ", commit->request.shard(), " is theirs"));
  }
}

// The end: every job is what it should be, and every artifact is what a run without faults makes.
void Simulation::CheckResults() {
  CheckAcknowledged();
  CheckStored();
  CheckShardsStored();
  rules_.CheckFiles(/*contents=*/true);
  rules_.CheckAtRest(*service_.checkpoint());
  std::map<std::string, v1::Step> finals;
  for (const v1::Step& step : service_.checkpoint()->Steps()) {
    if (step.final() && step.state() == v1::STEP_STATE_COMPLETE) finals[step.folder()] = step;
  }
  for (const Submitted& submitted : jobs_) {
    const v1::Job job = *service_.coordinator()->GetJob(submitted.job_id);
    if (job.state() == v1::JOB_STATE_SUCCEEDED) ++result_.succeeded;
    if (job.state() == v1::JOB_STATE_CANCELLED) ++result_.cancelled;
    // A lost answer to a cancel leaves us not knowing; a cancelled job is then right, too.
    if (job.state() == v1::JOB_STATE_CANCELLED && submitted.cancel_sent) continue;
    if (submitted.cancelled || job.state() != v1::JOB_STATE_SUCCEEDED) {
      Fail(absl::StrCat("job ", job.job_id(), " ended in state ", static_cast<int>(job.state()), ": ", job.reason()));
      continue;
    }
    const StagePlan& plan = plans_.at(submitted.job.name);
    for (const v1::Stage& stage : job.stages()) {
      const auto final_step = finals.find(stage.artifact_folder());
      if (final_step == finals.end()) {
        Fail(absl::StrCat("no complete final step behind the artifact of ", job.job_id(), "/", stage.name()));
        continue;
      }
      const bool pool = stage.kind() == "generate" || stage.kind() == "evaluate";
      const std::string path = absl::StrCat(stage.artifact_folder(), pool ? "/manifest.json" : "/state-0.json");
      const auto file = files_.Open(path);
      std::string text(file.ok() ? (*file)->size() : 0, '\0');
      if (!file.ok() || !(*file)->ReadAt(0, std::as_writable_bytes(std::span(text.data(), text.size()))).ok()) {
        Fail(absl::StrCat("an artifact cannot be read: ", path));
        continue;
      }
      if (!pool && text != absl::StrCat(plan.steps, " ", ChainValue(plan.steps))) {
        Fail(absl::StrCat("a resume has lost or repeated steps: ", path, " holds ", text));
      }
      if (!pool) continue;
      for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n', absl::SkipEmpty()))) {
        // "shard-3.l1007"
        const std::vector<std::string> parts = absl::StrSplit(line.substr(6), ".l");
        const auto winner =
            shard_winners_.find({final_step->second.stage_uid(), static_cast<uint32_t>(std::stoul(parts[0]))});
        if (winner != shard_winners_.end() && absl::StrCat(winner->second) != parts[1]) {
          Fail(absl::StrCat("the manifest names a loser: ", line, ", winner ", winner->second));
        }
      }
    }
  }
}

}  // namespace vlm::sim
