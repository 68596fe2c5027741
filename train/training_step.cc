#include "train/training_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"
#include "train/gradient_norm.h"
#include "train/torch_edge.h"

namespace vlm::train {
namespace {

// Announced and not run: the step that runs next and the one after it.
constexpr size_t kAnnouncedMax = 2;

std::string EncodeDoubles(const std::vector<double>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double));
}

absl::StatusOr<std::vector<double>> DecodeDoubles(std::string_view bytes) {
  if (bytes.size() % sizeof(double) != 0) return absl::DataLossError("sums of another rank are cut off");
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

struct TrainingStep::Announced {
  uint64_t step = 0;
  std::vector<MicroBatchHeader> mine;
  absl::StatusOr<StepHeader> header = absl::InternalError("header not received");  // set before the ticket is done
  Ticket ticket;
};

struct TrainingStep::Accumulated {
  std::vector<bool> reached;   // by bucket: reduced in some micro-step, on every rank alike
  std::vector<double> losses;  // of this rank's micro-batches, ascending m
  double loss = 0;             // of the step
  double gradient_norm = 0;
  absl::Duration forward, backward;
};

TrainingStep::TrainingStep(const TrainingOptions& options, GroupTable groups, std::unique_ptr<Objective> objective,
                           ParameterStore* store, const Clock* clock)
    : options_(options), groups_(std::move(groups)), objective_(std::move(objective)), store_(store), clock_(clock) {
  PlanOptions plan = options_.plan;
  plan.release_after_use = store->shards_parameters();
  for (const bool images : {false, true}) {
    schedules_[images] = Plan(store->graph(), store->buckets(), images, plan);
  }
  plan_hash_ = PlanHash();
}

TrainingStep::~TrainingStep() {
  for (const std::unique_ptr<Announced>& announced : announced_) (void)announced->ticket.Wait();
}

absl::StatusOr<std::unique_ptr<TrainingStep>> TrainingStep::Create(const TrainingOptions& options,
                                                                   ParameterStore* store, const Clock* clock) {
  VLM_RETURN_IF_ERROR(CheckLrSchedule(options.lr_schedule));
  if (!(std::isfinite(options.clip_norm) && options.clip_norm >= 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("gradient clipping norm must be finite and not negative (0: none): ", options.clip_norm));
  }
  VLM_ASSIGN_OR_RETURN(GroupTable groups, ResolveGroups(store->graph(), store->buckets(), options.optimizer));
  VLM_ASSIGN_OR_RETURN(std::unique_ptr<Objective> objective,
                       NewCrossEntropy(options.label_smoothing, options.vocabulary));
  return std::unique_ptr<TrainingStep>(
      new TrainingStep(options, std::move(groups), std::move(objective), store, clock));
}

const GroupTable& TrainingStep::groups() const { return groups_; }

std::string TrainingStep::PlanHash() const {
  std::string text;
  for (const bool images : {false, true}) text += schedules_[images].Hash();
  for (const BucketSpec& bucket : store_->buckets()) {
    absl::StrAppend(&text, "\n", bucket.name, " ", bucket.numel);
    for (const ParamRange& range : bucket.ranges) {
      absl::StrAppend(&text, " ", store_->graph().params[range.param].name, ":", range.begin, "-", range.end, "@",
                      range.offset);
    }
  }
  absl::StrAppend(&text, "\n", groups_.ToString(store_->graph()), static_cast<int>(store_->options().zero), " ",
                  c10::toString(store_->options().compute), " ", options_.seed);
  return Sha256Of(std::string_view(text)).Hex().substr(0, 16);
}

std::unique_ptr<TrainingStep::Announced> TrainingStep::Send(RankHeader header) {
  auto announced = std::make_unique<Announced>();
  announced->step = header.step;
  announced->mine = header.micro_batches;
  header.plan_hash = plan_hash_;
  announced->ticket =
      store_->queue()->Submit([this, header = std::move(header), received = &announced->header]() -> absl::Status {
        *received = ExchangeHeader(header, store_->collective());
        return received->status();
      });
  return announced;
}

absl::Status TrainingStep::Announce(uint64_t step, std::vector<MicroBatchHeader> micro_batches,
                                    std::vector<uint64_t> bad_pictures) {
  if (last_announced_.has_value() && step != *last_announced_ + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("steps must be announced one after another: step ", step, " after step ", *last_announced_));
  }
  if (announced_.size() >= kAnnouncedMax) {
    return absl::FailedPreconditionError(absl::StrCat("too many steps announced and not run: step ", step));
  }
  announced_.push_back(Send({step, "", std::move(micro_batches), std::move(bad_pictures)}));
  last_announced_ = step;
  return absl::OkStatus();
}

absl::StatusOr<StepHeader> TrainingStep::Receive(Announced* announced,
                                                 const std::vector<model::MicroBatch>& micro_batches) {
  VLM_RETURN_IF_ERROR(store_->queue()->Wait(announced->ticket));
  VLM_RETURN_IF_ERROR(announced->header.status());
  bool same = micro_batches.size() == announced->mine.size();
  for (size_t i = 0; same && i < micro_batches.size(); ++i) {
    same = Describe(micro_batches[i]) == announced->mine[i];
  }
  if (!same) {
    return absl::InvalidArgumentError(
        absl::StrCat("micro-batches differ from the announced ones: step ", announced->step, ", rank ", store_->rank(),
                     ", ", micro_batches.size(), " given, ", announced->mine.size(), " announced"));
  }
  return *std::move(announced->header);
}

absl::StatusOr<TrainingStep::Accumulated> TrainingStep::RunMicroSteps(
    const StepHeader& header, const std::vector<model::MicroBatch>& micro_batches) {
  Accumulated accumulated;
  accumulated.reached.assign(store_->buckets().size(), false);
  for (int64_t micro_step = 0; micro_step < header.MicroSteps(store_->world()); ++micro_step) {
    const Schedule& schedule = schedules_[header.HasImages(micro_step, store_->world())];
    RunInputs inputs;
    inputs.objective = objective_.get();
    inputs.global.target_weight = header.target_weight;
    if (micro_step < static_cast<int64_t>(micro_batches.size())) inputs.batch = &micro_batches[micro_step];
    inputs.measure_activations = options_.measure_activations;
    if (inputs.batch != nullptr && std::exchange(measure_next_, false)) inputs.measure_activations = true;
    VLM_ASSIGN_OR_RETURN(const RunResult result, Run(schedule, store_, inputs, clock_));
    if (inputs.batch != nullptr) accumulated.losses.push_back(result.loss);
    accumulated.forward += result.forward;
    accumulated.backward += result.backward;
    for (size_t id = 0; id < schedule.reduced.size(); ++id) {
      if (schedule.reduced[id]) accumulated.reached[id] = true;
    }
  }
  VLM_RETURN_IF_ERROR(store_->queue()->Drain());
  return accumulated;
}

absl::Status TrainingStep::JoinLosses(const StepHeader& header, Accumulated* accumulated) {
  std::vector<double> mine = accumulated->losses;
  const std::vector<double> sums = ShardSquareSums(*store_, accumulated->reached);
  mine.insert(mine.end(), sums.begin(), sums.end());
  absl::StatusOr<std::vector<std::string>> all = absl::InternalError("sums not received");
  const Ticket ticket = store_->queue()->Submit([&] {
    all = store_->collective()->AllGatherBytes(EncodeDoubles(mine), "losses and square sums");
    return all.status();
  });
  VLM_RETURN_IF_ERROR(store_->queue()->Wait(ticket));
  const size_t world = static_cast<size_t>(store_->world()), total = header.micro_batches.size();
  std::vector<std::vector<double>> losses(world), square_sums(world);
  for (size_t rank = 0; rank < world; ++rank) {
    VLM_ASSIGN_OR_RETURN(const std::vector<double> values, DecodeDoubles((*all)[rank]));
    const size_t count = total / world + (rank < total % world ? 1 : 0);
    if (values.size() < count) return absl::InternalError(absl::StrCat("losses of rank ", rank, " are too few"));
    losses[rank].assign(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count));
    square_sums[rank].assign(values.begin() + static_cast<std::ptrdiff_t>(count), values.end());
  }
  for (size_t m = 0; m < total; ++m) accumulated->loss += losses[m % world][m / world];
  VLM_ASSIGN_OR_RETURN(accumulated->gradient_norm, JoinSquareSums(*store_, accumulated->reached, square_sums));
  return absl::OkStatus();
}

absl::Status TrainingStep::Optimize(const Accumulated& accumulated, StepResult* result) {
  result->non_finite = !std::isfinite(accumulated.loss) || !std::isfinite(accumulated.gradient_norm);
  if (result->non_finite) {
    ++non_finite_steps_;
  } else {
    VLM_RETURN_IF_ERROR(store_->FinishGradients(accumulated.reached));
    const OptimizerStep step{&groups_, options_.optimizer, result->lr_factor,
                             ClipCoefficient(accumulated.gradient_norm, options_.clip_norm)};
    VLM_RETURN_IF_ERROR(ApplyAdamW(step, accumulated.reached, store_));
  }
  store_->ClearGradients();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> TrainingStep::Step(const std::vector<model::MicroBatch>& micro_batches) {
  if (announced_.empty()) return absl::FailedPreconditionError("no step is announced: call Announce before Step");
  const std::unique_ptr<Announced> announced = std::move(announced_.front());
  announced_.pop_front();
  return CatchTorch(absl::StrCat("training step ", announced->step),
                    [&] { return RunAnnounced(announced.get(), micro_batches); });
}

absl::StatusOr<StepResult> TrainingStep::RunAnnounced(Announced* announced,
                                                      const std::vector<model::MicroBatch>& micro_batches) {
  const absl::Duration blocked = store_->queue()->blocked();
  VLM_ASSIGN_OR_RETURN(const StepHeader header, Receive(announced, micro_batches));
  VLM_ASSIGN_OR_RETURN(Accumulated accumulated, RunMicroSteps(header, micro_batches));
  VLM_RETURN_IF_ERROR(JoinLosses(header, &accumulated));
  StepResult result;
  result.step = header.step;
  result.loss = accumulated.loss;
  result.gradient_norm = accumulated.gradient_norm;
  result.lr_factor = LrFactor(options_.lr_schedule, static_cast<int64_t>(header.step));
  for (const ParameterGroup& group : groups_.groups) result.lr = std::max(result.lr, group.lr * result.lr_factor);
  result.totals = header.totals;
  result.bad_pictures = header.bad_pictures;
  const absl::Duration start = clock_->Monotonic(), blocked_before = store_->queue()->blocked();
  VLM_RETURN_IF_ERROR(Optimize(accumulated, &result));
  result.times.optimizer = clock_->Monotonic() - start - (store_->queue()->blocked() - blocked_before);
  result.times.forward = accumulated.forward;
  result.times.backward = accumulated.backward;
  result.times.communication = store_->queue()->blocked() - blocked;
  result.non_finite_steps = non_finite_steps_;
  return result;
}

}  // namespace vlm::train
