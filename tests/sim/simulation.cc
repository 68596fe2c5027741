#include "tests/sim/simulation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/check.h"

namespace vlm::sim {
namespace {

// After the last job has ended: longer than the removal of a folder waits for its next try.
constexpr absl::Duration kSettleTime = absl::Seconds(12);

spec::RetryRule Unlimited(absl::Duration base) { return {std::nullopt, base, 2, absl::Seconds(5)}; }

// Faults come in any number here, so no budget may end a job that nobody retries.
std::map<spec::FailureClass, spec::RetryRule> GenerousRules() {
  std::map<spec::FailureClass, spec::RetryRule> rules;
  for (int number = 1; number <= 12; ++number) {
    rules[static_cast<spec::FailureClass>(number)] = Unlimited(absl::Milliseconds(number % 3 == 0 ? 500 : 0));
  }
  return rules;
}

// Some failures end the job at once, others soon.
std::map<spec::FailureClass, spec::RetryRule> StrictRules() {
  std::map<spec::FailureClass, spec::RetryRule> rules = GenerousRules();
  for (auto& [failure, rule] : rules) rule.limit = static_cast<int>(failure) % 3;
  return rules;
}

spec::Stage Pool(const std::string& name, spec::StageKind kind, uint32_t shards, spec::Ranks ranks) {
  spec::Stage stage;
  stage.name = name;
  stage.kind = kind;
  stage.shards = shards;
  stage.ranks = ranks;
  if (kind == spec::StageKind::kEvaluate) {
    stage.settings = spec::EvaluateSettings{};
  } else {
    stage.settings = spec::GenerateSettings{};
  }
  return stage;
}

spec::Stage Gang(const std::string& name, uint64_t steps, spec::Ranks ranks) {
  spec::Stage stage;
  stage.name = name;
  stage.kind = spec::StageKind::kPretrain;
  stage.ranks = ranks;
  spec::TrainingSettings settings;
  settings.train.length.steps = static_cast<int64_t>(steps);
  settings.checkpoint.keep_last = 2;
  stage.settings = settings;
  return stage;
}

}  // namespace

Simulation::Simulation(SimulationOptions options)
    : options_(options),
      queue_(options.seed),
      files_(RngKey{options.seed}.Derive("files")),
      gangs_(&queue_),
      service_(&queue_, &files_, this),
      rules_(&files_, [this](const std::string& violation) { Fail(violation); }) {
  world_.queue = &queue_;
  world_.files = &files_;
  world_.gangs = &gangs_;
  world_.service = &service_;
  world_.fail = [this](const std::string& violation) { Fail(violation); };
  world_.plan_of = [this](const v1::AttemptSpec& spec) {
    return plans_.at(spec.job_id().substr(0, spec.job_id().rfind('-')));
  };
  world_.on_data_answer = [this](const coordinator::Input& input, const coordinator::Reply& reply) {
    OnDataAnswer(input, reply);
  };
  VLM_CHECK(files_.MakeDirectory(kArtifactsRoot).ok() && files_.SyncDirectory("/").ok(),
            "an empty disk takes a folder");
  files_.SetHook([this](FileOperation operation, const std::string&) { return DiskFault(operation); });
  world_.hostile = options_.faults;
  aims_at_publishing_ = queue_.Chance(0.3);
  disk_may_fail_ = queue_.Chance(0.5);
  const int workers = 2 + static_cast<int>(queue_.Below(4));
  for (int i = 0; i < workers; ++i) {
    workers_.push_back(std::make_unique<SimulatedWorker>(&world_, i, 1 + static_cast<int>(queue_.Below(2))));
  }
}

SimulationResult Simulation::Run() {
  service_.Start();
  for (auto& worker : workers_) {
    queue_.After(queue_.Between(absl::ZeroDuration(), absl::Seconds(2)), "worker.boot", [&worker] {
      if (!worker->up()) worker->Boot();
    });
  }
  PlanJobs();
  if (options_.faults) PlanFaults();
  const absl::Duration start = queue_.now();
  absl::Duration settled = absl::InfiniteDuration();  // when every job had ended
  while (result_.violation.empty() && queue_.RunOne()) {
    const absl::Duration now = queue_.now() - start;
    if (now > options_.faults_until && AllFinal()) {
      if (settled == absl::InfiniteDuration()) settled = now;
      if (now - settled > kSettleTime) break;
    }
    if (now > options_.all_done_by) {
      std::string waiting;
      for (const Submitted& submitted : jobs_) {
        if (!service_.up() || submitted.job_id.empty()) continue;
        const absl::StatusOr<v1::Job> job = service_.coordinator()->GetJob(submitted.job_id);
        if (job.ok())
          absl::StrAppend(&waiting, job->job_id(), " is ", static_cast<int>(job->state()), ": ", job->reason(), "; ");
      }
      Fail(absl::StrCat("not every job has ended in bounded time: ", waiting));
    }
  }
  if (result_.violation.empty()) CheckResults();
  result_.hash = queue_.hash();
  result_.events = queue_.count();
  result_.late_calls = world_.late_calls;
  result_.strays = world_.strays;
  result_.ended = queue_.now() - start;
  result_.trail = absl::StrJoin(trail_, "\n");
  return result_;
}

void Simulation::PlanJobs() {
  const size_t jobs = 2 + queue_.Below(3);
  for (size_t i = 0; i < jobs; ++i) {
    Submitted submitted;
    spec::Job& job = submitted.job;
    // The last job repeats the first one's settings: its stages may be reused.
    const bool repeat = i + 1 == jobs && queue_.Chance(0.5);
    job.name = repeat ? "job0" : absl::StrCat("job", i);
    job.retry = GenerousRules();
    job.no_progress_restarts_max = 1'000'000;
    if (repeat) {
      job.stages = jobs_[0].job.stages;
    } else {
      StagePlan plan;
      plan.steps = 4 + queue_.Below(9);
      plan.save_every = 2 + queue_.Below(3);
      plans_[job.name] = plan;
      const auto ranks = static_cast<int32_t>(1 + queue_.Below(3));
      const uint32_t shards = 2 + static_cast<uint32_t>(queue_.Below(5));
      job.stages.push_back(Pool("make", spec::StageKind::kGenerate, shards, {1, ranks}));
      job.stages.push_back(Gang("train", plan.steps, {1, ranks}));
      job.stages.back().needs = {"make"};
      if (queue_.Chance(0.5)) {
        job.stages.push_back(Gang("tune", plan.steps, {1, 2}));
        job.stages.back().needs = {"make"};
      }
      job.stages.push_back(Pool("judge", spec::StageKind::kEvaluate, shards, {1, 2}));
      job.stages.back().needs = {"make", "train"};
      for (spec::Stage& stage : job.stages) stage.seed = i;
    }
    submitted.retries = queue_.Chance(0.3);
    if (submitted.retries) {
      job.retry = StrictRules();
      job.no_progress_restarts_max = 2;
      queue_.After(absl::Seconds(1), "client.look", [this, i] { RetryWhenFailed(i); });
    }
    submitted.yaml = absl::StrCat("name: ", job.name, " # ", i);
    jobs_.push_back(std::move(submitted));
    const absl::Duration when = repeat ? absl::Seconds(40) : queue_.Between(absl::ZeroDuration(), absl::Seconds(15));
    queue_.After(when, "client.submit", [this, i] { Submit(i); });
    if (queue_.Chance(0.2)) {
      queue_.After(when + queue_.Between(absl::Seconds(1), absl::Seconds(25)), "client.cancel",
                   [this, i] { Cancel(i); });
    }
  }
}

// A client: the same request until it is answered, and now and then once more.
void Simulation::Submit(size_t index) {
  const bool again = !jobs_[index].job_id.empty();
  if (!again) {
    queue_.After(queue_.Between(absl::Milliseconds(300), absl::Seconds(2)), "client.resubmit",
                 [this, index] { Submit(index); });
  }
  if (!service_.up() || (again && !queue_.Chance(0.3))) return;
  service_.CallCoordinator(
      [this, index](uint64_t call) {
        return coordinator::Input(coordinator::SubmitJob{call, jobs_[index].job, jobs_[index].yaml,
                                                         absl::StrCat("request-", index), "client"});
      },
      [this, index](const coordinator::Reply& reply) {
        if (!reply.status.ok()) return Fail(absl::StrCat("a submit was refused: ", reply.status.ToString()));
        const std::string job_id = std::get<v1::SubmitJobResponse>(reply.response).job_id();
        std::string& known = jobs_[index].job_id;
        if (!known.empty() && known != job_id) Fail(absl::StrCat("one request made two jobs: ", known, ", ", job_id));
        if (queue_.Chance(0.2)) return;  // the answer is lost on its way
        known = job_id;
        CheckAcknowledged();
      });
}

void Simulation::Cancel(size_t index) {
  if (jobs_[index].job_id.empty() || !service_.up()) return;
  jobs_[index].cancel_sent = true;
  service_.CallCoordinator(
      [this, index](uint64_t call) {
        coordinator::CancelJob cancel{call, {}, "client"};
        cancel.request.set_job_id(jobs_[index].job_id);
        return coordinator::Input(cancel);
      },
      [this, index](const coordinator::Reply& reply) {
        if (!reply.status.ok()) return Fail(absl::StrCat("a cancel was refused: ", reply.status.ToString()));
        const v1::JobState state = std::get<v1::CancelJobResponse>(reply.response).state();
        jobs_[index].cancelled = state == v1::JOB_STATE_CANCELLED || state == v1::JOB_STATE_CANCELLING;
      });
}

void Simulation::RetryWhenFailed(size_t index) {
  queue_.After(absl::Seconds(1), "client.look", [this, index] { RetryWhenFailed(index); });
  if (jobs_[index].job_id.empty() || !service_.up()) return;
  const absl::StatusOr<v1::Job> job = service_.coordinator()->GetJob(jobs_[index].job_id);
  if (!job.ok() || job->state() != v1::JOB_STATE_FAILED) return;
  ++result_.retries;
  service_.CallCoordinator(
      [this, index](uint64_t call) {
        coordinator::RetryJob retry{call, {}, "client"};
        retry.request.set_job_id(jobs_[index].job_id);
        return coordinator::Input(retry);
      },
      [this](const coordinator::Reply& reply) {
        // An earlier retry may have been heard late.
        if (reply.status.ok() || reply.status.code() == absl::StatusCode::kFailedPrecondition) return;
        Fail(absl::StrCat("a retry was refused: ", reply.status.ToString()));
      });
}

void Simulation::PlanFaults() {
  absl::Duration when = queue_.Between(absl::Seconds(1), absl::Seconds(6));
  while (when < options_.faults_until) {
    queue_.After(when, "fault", [this] { OneFault(); });
    when += queue_.Between(absl::Milliseconds(100), absl::Seconds(4));
  }
  queue_.After(options_.faults_until, "faults.end", [this] { HealAll(); });
}

void Simulation::OneFault() {
  SimulatedWorker* worker = workers_[queue_.Below(workers_.size())].get();
  const uint64_t kind = queue_.Below(100);
  if (kind < 18) {
    CrashService();
  } else if (kind < 30) {
    trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " FAULT a worker dies"));
    worker->Crash();
    queue_.After(queue_.Between(absl::Milliseconds(100), absl::Seconds(10)), "worker.boot", [worker] {
      if (!worker->up()) worker->Boot();
    });
  } else if (kind < 48) {
    const bool session_only = queue_.Chance(0.5);
    trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " FAULT partition",
                                  session_only ? " of the session only" : ""));
    worker->Partition(session_only);
    queue_.After(queue_.Between(absl::Milliseconds(200), absl::Seconds(14)), "link.heal", [worker] { worker->Heal(); });
  } else if (kind < 62) {
    worker->BreakLink();
  } else if (kind < 68) {
    trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " FAULT stall"));
    service_.Stall(queue_.Between(absl::Seconds(1), absl::Seconds(6)));
  } else if (kind < 82 && disk_may_fail_) {
    FailDisk();
  } else {
    FaultOnTrainer();
  }
}

void Simulation::CrashService() {
  if (!service_.up()) return;
  CheckStored();
  const bool machine = queue_.Chance(0.4);
  trail_.push_back(
      absl::StrCat(absl::FormatDuration(queue_.now()), " FAULT coordinator dies", machine ? " with its machine" : ""));
  RestartService(queue_.Chance(0.2) ? absl::Seconds(20) : queue_.Between(absl::Milliseconds(100), absl::Seconds(3)));
  service_.Crash(machine);
  ++result_.restarts;
  for (auto& other : workers_) other->Closed(other->session());
  if (machine) look_at_disk_ = true;
}

// From a write that fails now and then to a disk that takes nothing.
void Simulation::FailDisk() {
  constexpr double kRates[] = {0.05, 0.3, 1.0};
  disk_error_rate_ = kRates[queue_.Below(3)];
  disk_fails_until_ = queue_.now() + queue_.Between(absl::Seconds(1), absl::Seconds(10));
  trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " FAULT disk, rate ", disk_error_rate_));
}

// Writes only: what an error while reading costs depends on the reader, which is no part of the simulation.
absl::Status Simulation::DiskFault(FileOperation operation) {
  if (queue_.now() >= disk_fails_until_) return absl::OkStatus();
  switch (operation) {
    case FileOperation::kOpen:
    case FileOperation::kRead:
    case FileOperation::kList:
    case FileOperation::kStat:
      return absl::OkStatus();
    default:
      break;
  }
  if (!queue_.Chance(disk_error_rate_)) return absl::OkStatus();
  ++result_.disk_errors;
  if (operation == FileOperation::kCreate || operation == FileOperation::kAppend ||
      operation == FileOperation::kReserve || operation == FileOperation::kMakeDirectory) {
    return absl::ResourceExhaustedError("no space left on device");
  }
  return absl::InternalError("input/output error");
}

void Simulation::FaultOnTrainer() {
  std::vector<std::shared_ptr<FakeTrainer>> trainers;
  for (const auto& worker : workers_) {
    for (auto& trainer : worker->Trainers()) trainers.push_back(std::move(trainer));
  }
  if (trainers.empty()) return;
  const std::shared_ptr<FakeTrainer>& trainer = trainers[queue_.Below(trainers.size())];
  trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " FAULT trainer ", trainer->key().ToString()));
  switch (queue_.Below(6)) {
    case 0:
      return trainer->Die(70, 0, false);
    case 1:
      return trainer->Die(0, 9, true);
    case 2:
      return trainer->Die(0, 11, false);
    case 3:
      return trainer->Hang();
    case 4:
      return trainer->Freeze();
    default:
      return trainer->Die(69, 0, false);
  }
}

void Simulation::RestartService(absl::Duration after) {
  queue_.After(after, "service.start", [this] {
    if (service_.up()) return;
    watch_reconnects_ = true;
    service_.Start();
    CheckAcknowledged();
    CheckShardsStored();
    // The disk has lost what was not synced: what the service has loaded is what counts.
    if (std::exchange(look_at_disk_, false)) rules_.CheckFiles(/*contents=*/true);
  });
}

void Simulation::HealAll() {
  trail_.push_back(absl::StrCat(absl::FormatDuration(queue_.now()), " faults end"));
  world_.hostile = false;
  disk_fails_until_ = absl::ZeroDuration();
  if (!service_.up()) RestartService(absl::Seconds(1));
  for (auto& worker : workers_) {
    worker->Heal();
    if (!worker->up()) worker->Boot();
  }
}

bool Simulation::AllFinal() const {
  if (!service_.up()) return false;
  for (const Submitted& submitted : jobs_) {
    if (submitted.job_id.empty()) return false;
    const absl::StatusOr<v1::Job> job = service_.coordinator()->GetJob(submitted.job_id);
    if (!job.ok()) return false;
    const v1::JobState state = job->state();
    if (state == v1::JOB_STATE_FAILED && !submitted.retries) continue;  // CheckResults says so
    if (state != v1::JOB_STATE_SUCCEEDED && state != v1::JOB_STATE_CANCELLED) return false;
  }
  return true;
}

void Simulation::OnSend(uint64_t session, const v1::SessionResponse& message) {
  for (auto& worker : workers_) worker->Receive(session, message);
}

void Simulation::OnClose(uint64_t session) {
  for (auto& worker : workers_) worker->Closed(session);
}

void Simulation::Fail(const std::string& violation) {
  if (result_.violation.empty()) result_.violation = violation;
}

}  // namespace vlm::sim
