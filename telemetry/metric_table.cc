#include "telemetry/metric_table.h"

namespace vlm::telemetry {
namespace {

constexpr auto kCounter = MetricType::kCounter;
constexpr auto kGauge = MetricType::kGauge;
constexpr auto kHistogram = MetricType::kHistogram;
constexpr auto kCoordinator = MetricHome::kCoordinator;
constexpr auto kWorker = MetricHome::kWorker;

const std::vector<std::string_view> kRank = {"job", "stage", "rank"};

std::vector<MetricInfo> MakeTable() {
  return {
      // What people asked for.
      {"vlm_jobs", kGauge, kCoordinator, {"state"}, "Jobs by state."},
      {"vlm_stages", kGauge, kCoordinator, {"state"}, "Stages of unfinished jobs by state."},
      {"vlm_attempts", kGauge, kCoordinator, {"state"}, "Live attempts by state."},
      {"vlm_stages_waiting", kGauge, kCoordinator, {"reason"}, "Queued stages by what they wait for."},
      {"vlm_queue_wait_seconds_total",
       kCounter,
       kCoordinator,
       {"reason"},
       "Time stages spent in the queue, summed over stages, by what they waited for."},
      {"vlm_stage_steps_done",
       kGauge,
       kCoordinator,
       {"job", "stage"},
       "Optimizer steps (gang) or shards (pool) done by the running attempt; removed when it ends."},
      {"vlm_stage_steps_planned",
       kGauge,
       kCoordinator,
       {"job", "stage"},
       "Optimizer steps or shards in all; 0 when unknown; removed when the attempt ends."},
      {"vlm_restarts_total", kCounter, kCoordinator, {"cause"}, "Attempts that ended badly, by class of failure."},
      {"vlm_goodput_seconds_total",
       kCounter,
       kCoordinator,
       {},
       "Rank-seconds whose result was kept: up to a committed step, or to the good end of an attempt."},
      {"vlm_badput_seconds_total",
       kCounter,
       kCoordinator,
       {"cause"},
       "Rank-seconds of attempts whose result was not kept: starting up (cause start), or lost since the last "
       "commit (cause: class of failure, or cancel)."},
      {"vlm_step_commits_total", kCounter, kCoordinator, {}, "Checkpoint steps committed."},
      {"vlm_last_step_commit_timestamp_seconds",
       kGauge,
       kCoordinator,
       {},
       "Unix time of the newest committed checkpoint step; 0 before the first."},
      // Workers.
      {"vlm_nodes", kGauge, kCoordinator, {"state"}, "Known workers by state."},
      {"vlm_slots", kGauge, kCoordinator, {}, "Devices of live workers."},
      {"vlm_slots_taken", kGauge, kCoordinator, {}, "Devices of live workers that a rank holds."},
      {"vlm_heartbeats_total", kCounter, kCoordinator, {}, "Beats received from workers."},
      {"vlm_worker_sessions", kGauge, kCoordinator, {}, "Open sessions with workers."},
      // The coordinator itself.
      {"vlm_submit_seconds", kHistogram, kCoordinator, {}, "From the arrival of a submit to its durable answer."},
      {"vlm_validate_seconds", kHistogram, kCoordinator, {}, "Parsing and checking one job file."},
      {"vlm_decision_seconds", kHistogram, kCoordinator, {}, "Deciding one batch of events, without storing it."},
      {"vlm_store_commit_seconds",
       kHistogram,
       kCoordinator,
       {"durability"},
       "One batch into the store; synced: until it is on the disk."},
      {"vlm_decisions_total", kCounter, kCoordinator, {}, "Events handled by the decision thread."},
      {"vlm_decision_queue", kGauge, kCoordinator, {}, "Events that wait for the decision thread."},
      {"vlm_calls_refused_total", kCounter, kCoordinator, {}, "Calls refused because the queue was full."},
      {"vlm_events_total", kCounter, kCoordinator, {"kind"}, "Events recorded, by kind."},
      {"vlm_watchers", kGauge, kCoordinator, {}, "Open streams of events and of logs."},
      {"vlm_log_bytes_total", kCounter, kCoordinator, {}, "Bytes of rank logs stored."},
      {"vlm_log_dropped_bytes_total",
       kCounter,
       kCoordinator,
       {},
       "Bytes of rank logs lost: in a worker's ring, or over the limit of a job."},
      {"vlm_points_total", kCounter, kCoordinator, {}, "Metric points stored."},
      {"vlm_points_dropped_total",
       kCounter,
       kCoordinator,
       {},
       "Metric points lost: in a worker's ring, or over the limit of a job."},
      // Ranks, on their worker.
      {"vlm_rank_step", kGauge, kWorker, kRank, "Optimizer step of the newest point."},
      {"vlm_rank_step_seconds",
       kGauge,
       kWorker,
       {"job", "stage", "rank", "phase"},
       "Time of the newest step by phase: data, forward, backward, communication, optimizer, checkpoint."},
      {"vlm_rank_step_seconds_total",
       kCounter,
       kWorker,
       {"job", "stage", "rank", "phase"},
       "Time of all steps of the attempt by phase."},
      {"vlm_rank_data_wait_seconds_total", kCounter, kWorker, kRank, "Time the step waited for input."},
      {"vlm_rank_loss", kGauge, kWorker, kRank, "Training loss of the newest step."},
      {"vlm_rank_learning_rate", kGauge, kWorker, kRank, "Learning rate of the newest step."},
      {"vlm_rank_gradient_norm", kGauge, kWorker, kRank, "Norm of the gradient before clipping, newest step."},
      {"vlm_rank_tokens_total", kCounter, kWorker, kRank, "Tokens trained on by the attempt."},
      {"vlm_rank_images_total", kCounter, kWorker, kRank, "Pictures trained on by the attempt."},
      {"vlm_rank_bad_pictures_total", kCounter, kWorker, kRank,
       "Pictures that do not decode, found by an index stage, or since then by a training stage (told by rank 0)."},
      {"vlm_rank_samples_rejected_total", kCounter, kWorker, kRank,
       "Records an index stage left out, told by the rank that finished it: quarantine.jsonl names them."},
      {"vlm_rank_checkpoint_seconds", kGauge, kWorker, kRank, "Duration of the newest save."},
      {"vlm_rank_checkpoint_bytes", kGauge, kWorker, kRank, "Bytes this rank wrote in the newest save."},
      {"vlm_rank_checkpoint_success_timestamp_seconds", kGauge, kWorker, kRank,
       "Unix time at which the newest save was reported good."},
      {"vlm_rank_checkpoints_skipped_total", kCounter, kWorker, kRank, "Saves skipped because two were open."},
      {"vlm_rank_checkpoints_failed_total", kCounter, kWorker, kRank,
       "Saves that could not be written or found no space."},
      {"vlm_ranks", kGauge, kWorker, {"phase"}, "Ranks of this worker by phase."},
      {"vlm_rank_heartbeat_age_seconds", kGauge, kWorker, kRank, "Age of the newest beat of the rank."},
      {"vlm_worker_connected", kGauge, kWorker, {}, "1 while the session with the coordinator is open."},
      {"vlm_worker_results_waiting", kGauge, kWorker, {}, "Results the coordinator has not acknowledged."},
      {"vlm_worker_calls_waiting",
       kGauge,
       kWorker,
       {},
       "Parts of checkpoints kept on disk until the coordinator has answered."},
      {"vlm_worker_telemetry_dropped_total",
       kCounter,
       kWorker,
       {"kind"},
       "Log bytes and metric points lost in this worker's rings, or of a rank that ended long before they were taken."},
      // Every program.
      {"vlm_metric_series_refused_total",
       kCounter,
       kCoordinator,
       {},
       "New series refused because their metric has too many; on both programs."},
  };
}

}  // namespace

const std::vector<MetricInfo>& MetricTable() {
  static const std::vector<MetricInfo>* const table = new std::vector<MetricInfo>(MakeTable());
  return *table;
}

const MetricInfo* FindMetric(std::string_view name) {
  for (const MetricInfo& info : MetricTable()) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double>* const buckets = new std::vector<double>{
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
  return *buckets;
}

}  // namespace vlm::telemetry
