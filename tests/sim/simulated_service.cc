#include "tests/sim/simulated_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::sim {
namespace {

const absl::Time kEpoch = absl::FromUnixSeconds(1'700'000'000);

coordinator::CoordinatorOptions Options(EventQueue* queue) {
  coordinator::CoordinatorOptions options;
  options.default_artifacts = kArtifactsRoot;
  options.random_bytes = [queue](size_t count) {
    std::string bytes;
    while (bytes.size() < count) bytes += static_cast<char>(queue->Below(256));
    return bytes;
  };
  // Short, so that a fault is noticed many times in one run.
  options.start_timeout = absl::Seconds(30);
  options.forget_lost_after = absl::Seconds(20);  // so that workers come back after they were forgotten, too
  options.hang_first_steps = absl::Seconds(12);
  options.hang_init = options.hang_load = options.hang_eval = options.hang_save = absl::Seconds(20);
  options.hang_publish = absl::Seconds(20);
  return options;
}

// What of a stage must survive a restart, as text.
std::string StoredPart(const v1::Stage& stage) {
  std::string text = absl::StrCat("state ", static_cast<int>(stage.state()), ", attempt ", stage.fence(), " in state ",
                                  static_cast<int>(stage.attempt_state()), ", world ", stage.world(), ", restarts ",
                                  stage.restarts(), ", artifact ", stage.artifact_digest());
  for (const v1::RankPlacement& rank : stage.ranks()) {
    absl::StrAppend(&text, "; rank ", rank.rank(), " on ", rank.node_id(), " ended with ", rank.exit_code(), ", ",
                    static_cast<int>(rank.failure()));
  }
  return text;
}

}  // namespace

SimulatedService::SimulatedService(EventQueue* queue, SimulatedFileSystem* files, ServiceListener* listener)
    : queue_(queue),
      files_(files),
      listener_(listener),
      runner_(files, {{kArtifactsRoot}, "00112233445566778899aabbccddeeff"}),
      store_(coordinator::AllFamilies()),
      catalog_(checkpoint::CatalogFamilies()) {}

coordinator::Now SimulatedService::Now() const { return {queue_->now(), kEpoch + queue_->now()}; }

void SimulatedService::Soon(absl::Duration delay, const char* label, std::function<void()> function) {
  queue_->After(delay, label, [this, label, life = life_, function = std::move(function)] {
    if (life != life_ || !up()) return;
    if (queue_->now() < stalled_until_) {
      Soon(stalled_until_ - queue_->now(), label, function);
    } else {
      function();
    }
  });
}

void SimulatedService::Start() {
  VLM_CHECK(!up(), "the service runs already");
  ++life_;
  stalled_until_ = planned_wake_ = disk_until_ = removals_until_ = absl::ZeroDuration();
  synced_at_ = catalog_synced_at_ = queue_->now();
  checkpoint_ = std::make_unique<checkpoint::CheckpointCore>();
  for (const std::string& family : checkpoint::CatalogFamilies()) {
    if (family == checkpoint::kMetaFamily) continue;
    absl::Status row = absl::OkStatus();
    const absl::Status scan = catalog_.Scan(family, "", [&](std::string_view key, std::string_view value) {
      row = checkpoint_->AddRow(family, key, value);
      return row.ok();
    });
    if (!scan.ok() || !row.ok()) listener_->Fail(absl::StrCat("the catalog does not load: ", row.ToString()));
  }
  absl::StatusOr<checkpoint::Outputs> catalog = checkpoint_->Start(Now().wall);
  if (!catalog.ok()) return listener_->Fail(absl::StrCat("the catalog does not start: ", catalog.status().ToString()));
  coordinator_ = std::make_unique<coordinator::Coordinator>(Options(queue_));
  for (const std::string& family : coordinator::RestoredFamilies()) {
    absl::Status row = absl::OkStatus();
    const absl::Status scan = store_.Scan(family, "", [&](std::string_view key, std::string_view value) {
      row = coordinator_->AddRow(family, key, value);
      return row.ok();
    });
    if (!scan.ok() || !row.ok()) listener_->Fail(absl::StrCat("the store does not load: ", row.ToString()));
  }
  absl::StatusOr<coordinator::Outputs> outputs = coordinator_->Start(Now());
  if (!outputs.ok()) return listener_->Fail(absl::StrCat("no start: ", outputs.status().ToString()));
  listener_->OnCatalogStarted(*checkpoint_);
  SettleCheckpoint(*std::move(catalog));
  Settle(*std::move(outputs));
  PlanWake();
}

void SimulatedService::Crash(bool machine) {
  if (!up()) return;
  coordinator_.reset();
  checkpoint_.reset();
  data_answers_.clear();
  checkpoint_answers_.clear();
  ++life_;
  // A prefix of the unsynced commits may have reached the disk.
  store_.Crash(queue_->Below(4));
  catalog_.Crash(queue_->Below(4));
  if (machine) files_->Crash(SimulatedFileSystem::Survival::kRandom);
}

void SimulatedService::Stall(absl::Duration time) {
  if (up()) stalled_until_ = queue_->now() + time;
}

void SimulatedService::FromWorker(uint64_t session, v1::SessionRequest message) {
  Soon(absl::ZeroDuration(), "service.message",
       [this, session, message = std::move(message)] { Feed(coordinator::FromWorker{session, message}); });
}

void SimulatedService::SessionClosed(uint64_t session) {
  Soon(absl::ZeroDuration(), "service.closed", [this, session] { Feed(coordinator::SessionClosed{session}); });
}

void SimulatedService::CallCoordinator(std::function<coordinator::Input(uint64_t call)> make, DataAnswer answer) {
  Soon(absl::ZeroDuration(), "service.call", [this, make = std::move(make), answer = std::move(answer)] {
    const uint64_t call = next_call_++;
    data_answers_[call] = answer;
    Feed(make(call));
  });
}

void SimulatedService::CallCheckpoint(checkpoint::Request request, CheckpointAnswer answer) {
  Soon(absl::ZeroDuration(), "catalog.call", [this, request = std::move(request), answer = std::move(answer)] {
    const uint64_t call = next_call_++;
    checkpoint_answers_[call] = answer;
    FeedCheckpoint(call, request);
  });
}

void SimulatedService::Feed(const coordinator::Input& input) {
  Settle(coordinator_->Handle(Now(), input));
  if (absl::Status status = coordinator_->CheckInvariants(); !status.ok()) listener_->Fail(status.ToString());
  PlanWake();
}

void SimulatedService::PlanWake() {
  const absl::Duration wake = coordinator_->NextWake();
  if (wake == absl::InfiniteDuration() || wake == planned_wake_) return;
  planned_wake_ = wake;
  Soon(std::max(absl::ZeroDuration(), wake - queue_->now()), "service.tick", [this, wake] {
    if (planned_wake_ != wake) return;
    planned_wake_ = absl::ZeroDuration();
    Feed(coordinator::TimePassed{});
  });
}

// Decided now, on disk after the sync, and only then told.
void SimulatedService::Settle(coordinator::Outputs outputs) {
  for (const Mutation& write : outputs.writes) {
    queue_->Trace(write.family);
    queue_->Trace(write.key);
    queue_->Trace(write.value.value_or("(deleted)"));
  }
  listener_->OnWrites(outputs.writes);
  if (!outputs.writes.empty()) {
    const absl::Status status = store_.Commit(outputs.writes, store::Durability::kUnsynced);
    if (!status.ok()) return listener_->Fail(absl::StrCat("a batch was refused: ", status.ToString()));
    const bool slow = queue_->Chance(0.01);
    const absl::Duration latency = queue_->Between(absl::Microseconds(200), absl::Milliseconds(slow ? 300 : 3));
    synced_at_ = std::max(synced_at_, queue_->now() + latency);
  }
  const absl::Duration delay = std::max(absl::ZeroDuration(), synced_at_ - queue_->now());
  // Not held up by a stall of the decision thread: the sync thread is another one.
  queue_->After(delay, "service.synced", [this, life = life_, outputs = std::move(outputs)] {
    if (life != life_ || !up()) return;
    if (!outputs.writes.empty()) {
      const absl::Status status = store_.Commit({}, store::Durability::kSynced);
      if (!status.ok()) return listener_->Fail(absl::StrCat("a sync failed: ", status.ToString()));
    }
    Release(outputs);
  });
}

void SimulatedService::Release(const coordinator::Outputs& outputs) {
  for (const v1::Event& event : outputs.events) listener_->OnEvent(event);
  for (const coordinator::Reply& reply : outputs.replies) {
    auto answer = data_answers_.extract(reply.call);
    if (answer.empty()) {
      listener_->Fail(absl::StrCat("an answer to no call: ", reply.call));
    } else {
      answer.mapped()(reply);
    }
  }
  for (const coordinator::Effect& effect : outputs.effects) Perform(effect);
}

void SimulatedService::Perform(const coordinator::Effect& effect) {
  if (const auto* send = std::get_if<coordinator::SendToWorker>(&effect)) {
    listener_->OnSend(send->session, send->message);
  } else if (const auto* close = std::get_if<coordinator::CloseSession>(&effect)) {
    listener_->OnClose(close->session);
  } else if (const auto* open = std::get_if<coordinator::OpenAttempt>(&effect)) {
    const v1::OpenAttemptRequest request = open->request;
    CallCheckpoint(request, [this, request](const absl::StatusOr<checkpoint::Response>& response) {
      coordinator::AttemptOpened answer{request.stage_uid(), request.fence(), response.status(), {}};
      if (response.ok()) {
        answer.response = std::get<v1::OpenAttemptResponse>(*response);
        listener_->OnAttemptOpened(request.stage_uid(), request.fence());
      }
      Soon(absl::ZeroDuration(), "service.opened", [this, answer] { Feed(answer); });
    });
  } else if (const auto* commit = std::get_if<coordinator::CommitArtifact>(&effect)) {
    const v1::CommitArtifactRequest request = commit->request;
    CallCheckpoint(request, [this, request](const absl::StatusOr<checkpoint::Response>& response) {
      coordinator::ArtifactCommitted answer{request.stage_uid(), request.fence(), response.status(), {}};
      if (response.ok()) answer.response = std::get<v1::CommitArtifactResponse>(*response);
      Soon(absl::ZeroDuration(), "service.published", [this, answer] { Feed(answer); });
    });
  } else if (const auto* verify = std::get_if<coordinator::VerifyStep>(&effect)) {
    const coordinator::VerifyStep wanted = *verify;
    CallCheckpoint(wanted.request, [this, wanted](const absl::StatusOr<checkpoint::Response>& response) {
      coordinator::StepVerified answer{wanted.for_stage, wanted.request, response.status(), {}};
      if (response.ok()) answer.response = std::get<v1::VerifyStepResponse>(*response);
      Soon(absl::ZeroDuration(), "service.verified", [this, answer] { Feed(answer); });
    });
  } else if (const auto* nonce = std::get_if<coordinator::WriteNonce>(&effect)) {
    coordinator::NonceWritten answer{nonce->root, absl::StrCat("nonce-", life_), absl::StrCat("nonce ", life_), {}};
    answer.status = WriteFileDurably(files_, absl::StrCat(nonce->root, "/", answer.nonce_file), answer.nonce);
    Soon(absl::Milliseconds(2), "service.nonce", [this, answer] { Feed(answer); });
  }
}

void SimulatedService::FeedCheckpoint(uint64_t call, const checkpoint::Request& request) {
  SettleCheckpoint(checkpoint_->Handle(Now().wall, call, request));
}

void SimulatedService::SettleCheckpoint(checkpoint::Outputs outputs) {
  listener_->OnCatalogDecided(*checkpoint_, outputs.events);
  for (const Mutation& write : outputs.mutations) {
    queue_->Trace(write.family);
    queue_->Trace(write.key);
    queue_->Trace(write.value.value_or("(deleted)"));
  }
  if (!outputs.mutations.empty()) {
    const absl::Status status = catalog_.Commit(outputs.mutations, store::Durability::kUnsynced);
    if (!status.ok()) return listener_->Fail(absl::StrCat("a catalog batch was refused: ", status.ToString()));
    catalog_synced_at_ =
        std::max(catalog_synced_at_, queue_->now() + queue_->Between(absl::Microseconds(200), absl::Milliseconds(3)));
  }
  const absl::Duration delay = std::max(absl::ZeroDuration(), catalog_synced_at_ - queue_->now());
  queue_->After(delay, "catalog.synced", [this, life = life_, outputs = std::move(outputs)] {
    if (life != life_ || !up()) return;
    if (!outputs.mutations.empty() && !catalog_.Commit({}, store::Durability::kSynced).ok()) {
      return listener_->Fail("a sync of the catalog failed");
    }
    ReleaseCheckpoint(outputs);
  });
}

void SimulatedService::ReleaseCheckpoint(const checkpoint::Outputs& outputs) {
  for (const checkpoint::CatalogEvent& event : outputs.events) {
    listener_->OnCatalogEvent(event);
    if (event.kind == checkpoint::CatalogEvent::Kind::kCommitted) {
      const coordinator::StepCommitted hint{event.step.stage_uid, event.step.fence, event.step.step};
      Soon(absl::ZeroDuration(), "service.step", [this, hint] { Feed(hint); });
    }
  }
  for (const checkpoint::Reply& reply : outputs.replies) {
    auto answer = checkpoint_answers_.extract(reply.call);
    if (!answer.empty()) answer.mapped()(reply.response);
  }
  for (const checkpoint::Effect& effect : outputs.effects) {
    // Files are re-read by another thread than the one that makes and removes folders.
    const bool reads = effect.kind == checkpoint::Effect::Kind::kVerifyFiles;
    absl::Duration due = queue_->now() + queue_->Between(absl::Milliseconds(1), absl::Milliseconds(10));
    if (!reads) due = disk_until_ = std::max(disk_until_, due);
    // Removals stand in a line of their own, behind what was to be made before them.
    if (effect.kind == checkpoint::Effect::Kind::kRemoveFolder) {
      const absl::Duration took = queue_->Between(absl::Milliseconds(1), absl::Milliseconds(200));
      due = removals_until_ = std::max(removals_until_, due) + took;
    }
    Soon(due - queue_->now() + effect.delay, "catalog.effect", [this, effect] {
      const checkpoint::EffectResult result = runner_.Run(effect);
      listener_->OnEffectDone(effect);
      Soon(absl::Milliseconds(1), "catalog.result",
           [this, result] { SettleCheckpoint(checkpoint_->Handle(Now().wall, result)); });
    });
  }
}

std::string SimulatedService::CompareWithStore() const {
  coordinator::CoordinatorOptions options;
  options.default_artifacts = kArtifactsRoot;
  options.random_bytes = [](size_t count) { return std::string(count, 'x'); };
  coordinator::Coordinator twin(std::move(options));
  for (const std::string& family : coordinator::RestoredFamilies()) {
    const absl::Status scan = store_.Scan(
        family, "", [&](std::string_view key, std::string_view value) { return twin.AddRow(family, key, value).ok(); });
    if (!scan.ok()) return absl::StrCat("the store does not load: ", scan.ToString());
  }
  if (const auto outputs = twin.Start(Now()); !outputs.ok()) return outputs.status().ToString();
  const absl::StatusOr<v1::ListJobsResponse> jobs = coordinator_->ListJobs({});
  if (!jobs.ok()) return jobs.status().ToString();
  for (const v1::Job& listed : jobs->jobs()) {
    const absl::StatusOr<v1::Job> stored = twin.GetJob(listed.job_id());
    if (!stored.ok()) return absl::StrCat("a job is not stored: ", listed.job_id());
    const v1::Job job = *coordinator_->GetJob(listed.job_id());
    for (int i = 0; i < job.stages_size(); ++i) {
      const std::string here = StoredPart(job.stages(i));
      const std::string there = StoredPart(stored->stages(i));
      // A stage that waits for its parents looks for an artifact to reuse as soon as the twin starts.
      if (job.stages(i).state() == v1::STAGE_STATE_BLOCKED || here == there) continue;
      return absl::StrCat("what a restart would load of ", job.job_id(), "/", job.stages(i).name(),
                          " is not what is in memory: ", there, " instead of ", here);
    }
  }
  return "";
}

}  // namespace vlm::sim
