// The rules of the simulation: what must hold after every event, and at the end.
#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/format/durable_file.h"
#include "tests/sim/simulation.h"
#include "vlm/v1/record.pb.h"

namespace vlm::sim {
namespace {

constexpr size_t kTrailMax = 80;

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

void Simulation::OnAttemptOpened(const std::string& stage_uid, uint64_t fence) {
  uint64_t& highest = opened_[stage_uid];
  highest = std::max(highest, fence);
}

void Simulation::OnCatalogEvent(const checkpoint::CatalogEvent& event) {
  if (event.kind == checkpoint::CatalogEvent::Kind::kCommitted) CheckCommitted(event.step);
}

// No commit below the lowest accepted fence, and COMPLETE means: on disk.
void Simulation::CheckCommitted(const checkpoint::StepKey& key) {
  // A commit may be decided before an OpenAttempt of a higher fence and told after it; then it is its answer.
  const auto opened = opened_.find(key.stage_uid);
  if (opened != opened_.end() && key.fence < opened->second) {
    Fail(absl::StrCat("step ", key.step, " of attempt ", key.fence, " was committed after attempt ", opened->second,
                      " was opened"));
  }
  for (const v1::Step& step : service_.checkpoint()->Steps()) {
    if (step.stage_uid() != key.stage_uid || step.step() != key.step || step.fence() != key.fence) continue;
    if (step.state() != v1::STEP_STATE_COMPLETE) continue;
    for (const v1::StepFile& file : step.files()) CheckFile(step, file, true);
  }
}

void Simulation::CheckFile(const v1::Step& step, const v1::StepFile& file, bool contents) {
  const checkpoint::FileClaim claim{file.name(), file.bytes(), file.digest()};
  const auto damages = checkpoint::VerifyFiles(&files_, step.folder(), std::span(&claim, 1));
  if (damages.ok() && damages->empty()) return;
  Fail(absl::StrCat("a COMPLETE step is not as committed: ", step.folder(), "/", file.name(), ": ",
                    damages.ok() ? damages->front().detail : damages.status().ToString()));
}

// After the disk has lost what was not synced. The service is down: what it will load is what counts.
void Simulation::CheckAllCommitted() {
  queue_.After(absl::ZeroDuration(), "check.disk", [this] {
    if (!service_.up()) {
      queue_.After(absl::Milliseconds(100), "check.disk", [this] { CheckAllCommitted(); });
      return;
    }
    for (const v1::Step& step : service_.checkpoint()->Steps()) {
      if (step.state() != v1::STEP_STATE_COMPLETE) continue;
      for (const v1::StepFile& file : step.files()) CheckFile(step, file, true);
    }
  });
}

// A shard is DONE once: its row never changes to another lease.
void Simulation::OnWrites(const std::vector<Mutation>& writes) {
  for (const Mutation& write : writes) {
    if (write.family == coordinator::kShardFamily) CheckShardWrite(write);
  }
}

void Simulation::CheckShardWrite(const Mutation& write) {
  const std::string uid = write.key.substr(0, write.key.size() - 4);
  const auto shard = static_cast<uint32_t>(coordinator::DecodeU64(std::string(4, '\0') + write.key.substr(uid.size())));
  const auto acknowledged = shard_winners_.find({uid, shard});
  if (!write.value.has_value()) {
    // Only the finish task is done again, when what it wrote was lost.
    shard_winners_.erase({uid, shard});
    return;
  }
  v1::ShardRecord record;
  if (!record.ParseFromString(*write.value)) return Fail("a shard row does not parse");
  if (acknowledged != shard_winners_.end() && acknowledged->second != record.lease_id()) {
    Fail(absl::StrCat("shard ", shard, " was done by lease ", acknowledged->second, " and again by ",
                      record.lease_id()));
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
