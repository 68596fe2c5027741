#include "trainer/stages/training_stage.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/mutex.h"
#include "checkpoint/client/carried_files.h"
#include "checkpoint/client/step_writer.h"
#include "model/device_batch.h"
#include "model/llava.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_state.h"
#include "train/end_together.h"
#include "train/process_memory.h"
#include "trainer/exit_code.h"
#include "trainer/stages/bad_pictures.h"
#include "trainer/stages/resume.h"
#include "trainer/stages/training_curve.h"
#include "trainer/stages/training_setup.h"

namespace vlm::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kStateVersion = 1;
constexpr uint64_t kCurvesBytesMax = uint64_t{1} << 30;  // of an older version, which wrote every step
constexpr int kLogEverySteps = 10;
constexpr int kFailedSavesMax = 3;  // in a row
// A coordinator that was started again serves within a second; training waits no longer for one that is away.
constexpr absl::Duration kWaitForService = absl::Seconds(1);
constexpr uint64_t kTrainerStateBytesMax = 256 << 20;  // of pictures that went bad it holds the numbers
constexpr uint64_t kFreeBytesFloor = 64 << 20;         // as the service leaves, for sums, markers and other writers

std::string CurveLine(const train::StepResult& result) {
  const Json json = {{"step", result.step},
                     {"loss", result.loss},
                     {"learning_rate", result.lr},
                     {"gradient_norm", result.gradient_norm},
                     {"tokens", result.totals.tokens},
                     {"images", result.totals.images},
                     {"skipped", result.non_finite}};
  return json.dump() + "\n";
}

class TrainingRun {
 public:
  explicit TrainingRun(const StageContext& context)
      : context_(context),
        settings_(context.stage->training()),
        writer_(context.files, context.checkpoints, context.clock, {.advance = [this] { AdvanceSave(); }}) {}

  ~TrainingRun() { context_.link->WatchCollective(nullptr); }  // the heartbeat outlives the collective

  // On an error the other ranks are told why before this one leaves.
  absl::Status Run() {
    return train::EndTogether([this] { return parts_.collective.get(); }, [this] { return Train(); });
  }

 private:
  absl::Status Train() {
    VLM_RETURN_IF_ERROR(SetUp());
    context_.link->SetPhase(Phase::kStep);
    if (first_step() > plan_->steps) return absl::OkStatus();  // the final step is complete already
    loader_ = data::Loader::Start(
        plan_->batches, data_->reader.get(), cursor_, first_step(),
        {.rank = context_.assignment->rank, .world = context_.assignment->world, .last_step = LastStep()});
    VLM_ASSIGN_OR_RETURN(std::optional<data::Loader::Step> current, LoadAndAnnounce(first_step()));
    parts_.step->MeasureNextMicroBatch();
    while (current.has_value()) {
      VLM_ASSIGN_OR_RETURN(std::optional<data::Loader::Step> next, LoadAndAnnounce(current->step + 1));
      VLM_RETURN_IF_ERROR(OneStep(*current));
      if (current->step == first_step() || !next.has_value()) LogLedger(current->step);
      current = std::move(next);
    }
    return WaitForSaves(Phase::kPublish);
  }

  // Saves of any size may take long; while training waits for them, what they write is this rank's progress.
  absl::Status WaitForSaves(Phase phase) {
    SetWaiting(true);
    context_.link->SetPhase(phase);
    absl::Status saved = writer_.Wait();
    SetWaiting(false);
    return saved;
  }
  void SetWaiting(bool waits) {
    MutexLock lock(&progress_mutex_);
    waits_for_saves_ = waits;
  }
  // On a thread of the writer's, one call at a time. Beside training it says nothing: it would hide a step that hangs.
  void AdvanceSave() {
    Progress progress;
    {
      MutexLock lock(&progress_mutex_);
      if (!waits_for_saves_) return;
      ++progress_.counter;
      progress = progress_;
    }
    context_.link->SetProgress(progress);
  }

  uint64_t LastStep() const {
    return context_.last_step > 0 ? std::min<uint64_t>(context_.last_step, plan_->steps) : plan_->steps;
  }
  model::BatchLimits limits() const {
    if (!config_.llava.has_value()) return {.vocab_size = config_.text.vocab_size};
    return {.vocab_size = config_.text.vocab_size,
            .image_tokens = config_.llava->ImageTokens(),
            .image_size = config_.llava->vision.image_size};
  }
  uint64_t first_step() const { return context_.assignment->resume_step + 1; }

  absl::Status SetUp() {
    at::set_num_threads(context_.assignment->threads);
    context_.link->SetPhase(Phase::kLoad);
    VLM_ASSIGN_OR_RETURN(data_, OpenIndexedData(context_, settings_.data.index_stage));
    bad_pictures_.emplace(&data_->manifest);
    VLM_ASSIGN_OR_RETURN(TrainingPlan plan, PlanTraining(context_, *data_));
    plan_.emplace(std::move(plan));
    VLM_ASSIGN_OR_RETURN(config_, TrainingModelConfig(context_, *data_));
    VLM_RETURN_IF_ERROR(AskForFallback(context_, ReadTrainerState()));
    VLM_ASSIGN_OR_RETURN(device_, OpenDevice(context_));
    VLM_ASSIGN_OR_RETURN(parts_.collective, ConnectRanks(context_));
    VLM_RETURN_IF_ERROR(BuildTraining(context_, config_, device_, plan_->steps, &parts_));
    context_.link->WatchCollective([collective = parts_.collective.get()] { return collective->sequence(); });
    const bool resumes = context_.assignment->resume_step > 0;
    VLM_RETURN_IF_ERROR(resumes ? AskForFallback(context_, LoadResume(context_, parts_.store.get()))
                                : LoadStart(context_, config_, parts_.store.get()));
    VLM_ASSIGN_OR_RETURN(cursor_, data::Cursor::Decode(context_.assignment->resume_cursor));
    state_plan_ = train::PlanState(*parts_.store, {});
    for (const train::PlannedFile& file : state_plan_.files) {
      if (file.frozen) frozen_files_.push_back(file.name);
      if (file.rank == context_.assignment->rank) snapshot_bytes_max_ += static_cast<uint64_t>(file.bytes);
    }
    std::sort(frozen_files_.begin(), frozen_files_.end());
    std::fprintf(stderr, "%s: %llu steps, rank %d of %d, schedule %s\n%s\n", context_.stage->name.c_str(),
                 static_cast<unsigned long long>(plan_->steps), context_.assignment->rank, context_.assignment->world,
                 parts_.step->plan_hash().c_str(), parts_.step->groups().ToString(*parts_.graph).c_str());
    return absl::OkStatus();
  }

  // After a step: before the first, nothing is known of activations and communication.
  void LogLedger(uint64_t step) const {
    std::fprintf(stderr, "bytes of rank %d after step %llu\n%s", context_.assignment->rank,
                 static_cast<unsigned long long>(step), parts_.store->ledger().ToString().c_str());
    if (const uint64_t peak = train::TensorBytesPeak(); peak > 0) {
      std::fprintf(stderr, "tensors: at most %llu bytes at one time so far\n", static_cast<unsigned long long>(peak));
    }
  }

  // The step's micro-batches, announced to the other ranks; nothing after the last step.
  absl::StatusOr<std::optional<data::Loader::Step>> LoadAndAnnounce(uint64_t step) {
    if (step > LastStep()) return std::nullopt;
    const absl::Duration start = context_.clock->Monotonic();
    absl::StatusOr<data::Loader::Step> loaded = loader_->Next();
    data_wait_ += context_.clock->Monotonic() - start;
    if (!loaded.ok()) return WithExitCode(loaded.status(), ExitCode::kBadData);
    std::vector<uint64_t> bad = bad_pictures_->Tell(*loaded);
    std::vector<train::MicroBatchHeader> headers;
    for (const data::HostMicroBatch& host : loaded->mine) {
      const model::MicroBatch batch = ToMicroBatch(host, data_->pixels);
      const absl::Status valid = model::ValidateMicroBatch(batch, limits());
      VLM_RETURN_IF_ERROR(WithExitCode(valid, ExitCode::kBadData));
      headers.push_back(train::Describe(batch));
    }
    VLM_RETURN_IF_ERROR(parts_.step->Announce(step, std::move(headers), std::move(bad)));
    return *std::move(loaded);
  }

  absl::Status OneStep(const data::Loader::Step& loaded) {
    const absl::Duration start = context_.clock->Monotonic();
    std::vector<model::MicroBatch> batches;
    for (const data::HostMicroBatch& host : loaded.mine) {
      batches.push_back(model::MoveTo(ToMicroBatch(host, data_->pixels), device_));
    }
    VLM_ASSIGN_OR_RETURN(const train::StepResult result, parts_.step->Step(batches));
    VLM_RETURN_IF_ERROR(CountBadPictures(result));
    if (context_.assignment->rank == 0) curve_.Add(result.step, CurveLine(result));
    skipped_in_a_row_ = result.non_finite ? skipped_in_a_row_ + 1 : 0;
    const absl::Duration trained = context_.clock->Monotonic();
    absl::Duration saving;
    if (result.step % static_cast<uint64_t>(settings_.checkpoint.every) == 0 || result.step == plan_->steps) {
      VLM_RETURN_IF_ERROR(SaveStep(result.step, loaded.next));
      saving = context_.clock->Monotonic() - trained;
    }
    Report(result, trained - start, saving);
    return CheckFinite(result);
  }

  absl::Status CountBadPictures(const train::StepResult& result) {
    VLM_ASSIGN_OR_RETURN(const uint64_t added, bad_pictures_->Add(result.step, result.bad_pictures));
    if (added > 0 && context_.assignment->rank == 0) {
      context_.link->AddMetric("bad_pictures", result.step, static_cast<double>(added));
    }
    return absl::OkStatus();
  }

  absl::Status CheckFinite(const train::StepResult& result) {
    if (settings_.nonfinite_steps_max == 0 || skipped_in_a_row_ <= settings_.nonfinite_steps_max) {
      return absl::OkStatus();
    }
    return WithExitCode(
        absl::InternalError(absl::StrCat(skipped_in_a_row_,
                                         " steps in a row had a loss or gradient that is not "
                                         "finite, the last one step ",
                                         result.step, "; lower the learning rate, clip gradients or look at the data")),
        ExitCode::kNumeric);
  }

  Progress Advance(const train::StepResult& result, absl::Duration took) {
    const double seconds = std::max(1e-9, absl::ToDoubleSeconds(took));
    // A moving average over about ten steps keeps the display readable.
    auto smooth = [&](double old, double now) { return old == 0 ? now : 0.9 * old + 0.1 * now; };
    MutexLock lock(&progress_mutex_);
    ++progress_.counter;
    progress_.step = result.step;
    progress_.loss = result.loss;
    progress_.tokens_per_second =
        smooth(progress_.tokens_per_second, static_cast<double>(result.totals.tokens) / seconds);
    progress_.images_per_second =
        smooth(progress_.images_per_second, static_cast<double>(result.totals.images) / seconds);
    return progress_;
  }

  void Report(const train::StepResult& result, absl::Duration step_time, absl::Duration saving) {
    const absl::Duration waited = std::exchange(data_wait_, absl::ZeroDuration());
    const Progress progress = Advance(result, step_time + waited + saving);
    context_.link->SetProgress(progress);
    auto metric = [&](std::string_view series, double value) { context_.link->AddMetric(series, result.step, value); };
    metric("step_seconds_data", absl::ToDoubleSeconds(waited));
    metric("step_seconds_forward", absl::ToDoubleSeconds(result.times.forward));
    metric("step_seconds_backward", absl::ToDoubleSeconds(result.times.backward));
    metric("step_seconds_communication", absl::ToDoubleSeconds(result.times.communication));
    metric("step_seconds_optimizer", absl::ToDoubleSeconds(result.times.optimizer));
    metric("step_seconds_checkpoint", absl::ToDoubleSeconds(saving));
    if (context_.assignment->rank != 0) return;
    metric("loss", result.loss);
    metric("learning_rate", result.lr);
    metric("gradient_norm", result.gradient_norm);
    metric("tokens", static_cast<double>(result.totals.tokens));
    metric("images", static_cast<double>(result.totals.images));
    if (result.step % kLogEverySteps == 0 || result.step == plan_->steps || result.non_finite) {
      absl::FPrintF(stderr, "step %d/%d loss %.4f lr %.3g norm %.3f %.0f tokens/s%s\n", result.step, plan_->steps,
                    result.loss, result.lr, result.gradient_norm, progress.tokens_per_second,
                    result.non_finite ? " skipped: not finite" : "");
    }
  }

  // Copies the state out and goes on; files are written behind training's back.
  absl::Status SaveStep(uint64_t step, const data::Cursor& next) {
    context_.link->SetPhase(Phase::kSave);
    checkpoint::Save save;
    save.step = {.stage_uid = context_.assignment->stage_uid,
                 .fence = context_.assignment->fence,
                 .step = step,
                 .world = context_.assignment->world,
                 .parent_step = last_saved_,
                 .cursor = next.Encode(),
                 .final = step == plan_->steps,
                 .reserve_bytes = static_cast<uint64_t>(state_plan_.bytes)};
    save.rank = context_.assignment->rank;
    VLM_RETURN_IF_ERROR(CheckSaves());
    if (save.step.final) {
      // The last save must not meet the limit on open steps. Errors of earlier saves were told and counted.
      WaitForSaves(Phase::kSave).IgnoreError();
    }
    // A rank ends only after its last save is committed as a whole.
    save.wait_for_commit = save.step.final || step == context_.last_step;
    VLM_ASSIGN_OR_RETURN(const bool begun, BeginTogether(&save));
    if (!begun) {
      context_.link->SetPhase(Phase::kStep);  // its limit on silence is far shorter than a save's
      return absl::OkStatus();
    }
    VLM_RETURN_IF_ERROR(CopyState(&save));
    if (save.rank == 0) VLM_RETURN_IF_ERROR(AddSmallFiles(step, next, &save.files));
    save.done = [this, step, folder = save.folder](const checkpoint::SaveResult& result) {
      NoteSave(step, folder, result);
      context_.link->AddMetric("checkpoint_seconds", step, absl::ToDoubleSeconds(result.duration));
      context_.link->AddMetric("checkpoint_bytes", step, static_cast<double>(result.bytes));
      context_.link->AddMetric("checkpoint_ok", step, result.status.ok() ? 1 : 0);
    };
    last_saved_ = step;
    const bool final = save.step.final;
    const absl::Status started = writer_.Start(std::move(save));
    context_.link->SetPhase(final ? Phase::kPublish : Phase::kStep);
    return started;
  }

  // On the writer's thread.
  void NoteSave(uint64_t step, const std::string& folder, const checkpoint::SaveResult& result) {
    if (result.status.ok()) {
      carried_.Remember(folder, result.files, frozen_files_);
      if (result.committed) {
        std::fprintf(stderr, "checkpoint of step %llu committed\n", static_cast<unsigned long long>(step));
      }
    } else {
      NoteFailedSave(step, result.status);
      return;
    }
    MutexLock lock(&saves_mutex_);
    failed_saves_in_a_row_ = 0;
  }

  void NoteFailedSave(uint64_t step, const absl::Status& why) {
    std::fprintf(stderr, "checkpoint of step %llu failed, training goes on: %s\n",
                 static_cast<unsigned long long>(step), std::string(why.message()).c_str());
    context_.link->AddMetric("checkpoint_failed", step, 1);
    MutexLock lock(&saves_mutex_);
    ++failed_saves_in_a_row_;
    last_save_ = why;
  }

  // A save that fails costs only itself; a disk that stays full or broken ends the attempt.
  absl::Status CheckSaves() {
    MutexLock lock(&saves_mutex_);
    if (failed_saves_in_a_row_ < kFailedSavesMax) return absl::OkStatus();
    return WithExitCode(
        Annotate(last_save_, absl::StrCat(failed_saves_in_a_row_,
                                          " saves in a row failed; free space or mend the disk, then `vlmctl retry` "
                                          "goes on from the last good step; the last")),
        ExitCode::kStorage);
  }

  // Frozen weights are linked from the step before; the rest of this rank's state is copied.
  absl::Status CopyState(checkpoint::Save* save) {
    absl::StatusOr<std::vector<checkpoint::FileClaim>> linked = carried_.LinkInto(context_.files, save->folder);
    VLM_RETURN_IF_ERROR(WithExitCode(linked.status(), ExitCode::kStorage));
    save->written = *std::move(linked);
    std::set<std::string> present;
    for (const checkpoint::FileClaim& claim : save->written) present.insert(claim.name);
    VLM_ASSIGN_OR_RETURN(std::vector<train::FileImage> images,
                         train::SaveState(state_plan_, parts_.store.get(), present));
    save->snapshot_bytes = train::ImageBytes(images);
    VLM_ASSIGN_OR_RETURN(save->files, train::ToFilesToWrite(std::move(images)));
    return absl::OkStatus();
  }

  // OK when the disk has room for the step, as far as this rank sees it.
  absl::Status CheckDisk(uint64_t step_bytes) const {
    VLM_ASSIGN_OR_RETURN(const uint64_t free_bytes, context_.files->FreeBytes(context_.assignment->artifacts));
    if (free_bytes >= step_bytes + std::min(kFreeBytesFloor, step_bytes)) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("disk of ", context_.assignment->artifacts, " has ", free_bytes,
                                                     " bytes free, the step needs ", step_bytes));
  }

  // False: the disk is full, some rank still writes as much as it may hold in memory, or the service has two open
  // steps. All ranks save, or none does: every rank says whether it has room ("." when it writes nothing, "!" and why
  // not: on the disk), then rank 0 begins the step and tells the others. Two open steps that no rank writes are no save
  // that takes its time but places lost for good: that counts as a failed save.
  absl::StatusOr<bool> BeginTogether(checkpoint::Save* save) {
    VLM_RETURN_IF_ERROR(parts_.queue->Drain());
    const absl::Status disk = CheckDisk(save->step.reserve_bytes);
    const std::string mine = !disk.ok()                             ? "!" + std::string(disk.message())
                             : writer_.saves_in_flight() == 0       ? "."
                             : writer_.HasRoom(snapshot_bytes_max_) ? "+"
                                                                    : "-";
    VLM_ASSIGN_OR_RETURN(const std::vector<std::string> room,
                         parts_.collective->AllGatherBytes(mine, "room for a save"));
    for (size_t rank = 0; rank < room.size(); ++rank) {
      if (!room[rank].starts_with("!")) continue;
      const absl::Status why = absl::ResourceExhaustedError(absl::StrCat("rank ", rank, ": ", room[rank].substr(1)));
      if (save->step.final) return WithExitCode(Annotate(why, "the last save cannot be made"), ExitCode::kStorage);
      NoteFailedSave(save->step.step, why);
      return false;
    }
    const auto full = std::find(room.begin(), room.end(), "-");
    if (full != room.end()) {
      SkipSave(*save, absl::StrCat("rank ", full - room.begin(), " still writes earlier ones"));
      return false;
    }
    const bool idle = std::count(room.begin(), room.end(), ".") == std::ssize(room);
    std::string answer;
    absl::Status failed;
    if (save->rank == 0) {
      absl::StatusOr<std::string> folder = BeginStep(save->step);
      if (folder.ok()) {
        answer = "+" + *folder;
      } else if (idle && absl::IsResourceExhausted(folder.status()) && !save->step.final) {
        answer = "x" + std::string(folder.status().message());
      } else if ((absl::IsResourceExhausted(folder.status()) || absl::IsUnavailable(folder.status())) &&
                 !save->step.final) {
        SkipSave(*save, std::string(folder.status().message()));
        answer = "-";
      } else {
        failed = folder.status();
        answer = "!" + std::string(failed.message());
      }
    }
    VLM_ASSIGN_OR_RETURN(const std::vector<std::string> all, parts_.collective->AllGatherBytes(answer, "begin step"));
    VLM_RETURN_IF_ERROR(WithExitCode(failed, ExitCode::kStorage));
    if (all[0].starts_with("!"))
      return absl::AbortedError("rank 0 could not begin the checkpoint: " + all[0].substr(1));
    if (all[0].starts_with("x")) {
      NoteFailedSave(save->step.step, absl::ResourceExhaustedError("no rank writes, yet " + all[0].substr(1)));
      return false;
    }
    save->folder = all[0].substr(1);
    return all[0].starts_with("+");
  }

  // Rank 0. Training does not wait for a service that is away, except with its last step: the save is skipped. A step
  // that was asked for without an answer may have been begun; unless it is given up before the next one, it keeps one
  // of the two places for saves.
  absl::StatusOr<std::string> BeginStep(const checkpoint::StepToBegin& step) {
    const bool knows_away = unanswered_step_ > 0;
    const absl::Duration wait =
        step.final ? absl::InfiniteDuration() : (knows_away ? absl::ZeroDuration() : kWaitForService);
    if (knows_away) {
      const absl::Status given_up = context_.checkpoints->AbortStep(step.stage_uid, unanswered_step_, step.fence, wait);
      if (absl::IsUnavailable(given_up)) return given_up;
      unanswered_step_ = 0;  // gone, or never begun
    }
    absl::StatusOr<std::string> folder = context_.checkpoints->BeginStep(step, wait);
    if (absl::IsUnavailable(folder.status())) unanswered_step_ = step.step;
    return folder;
  }

  void SkipSave(const checkpoint::Save& save, const std::string& why) {
    if (save.rank != 0) return;
    std::fprintf(stderr, "checkpoint of step %llu skipped: %s\n", static_cast<unsigned long long>(save.step.step),
                 why.c_str());
    context_.link->AddMetric("checkpoint_skipped", save.step.step, 1);
  }

  absl::Status AddSmallFiles(uint64_t step, const data::Cursor& next, std::vector<checkpoint::FileToWrite>* files) {
    const std::string dtype = settings_.train.precision == spec::Precision::kBf16 ? "bfloat16" : "float32";
    absl::StatusOr<std::map<std::string, std::string>> small =
        SideFiles(config_, *data_->tokenizer, *data_->chat_template, data_->pixels, dtype);
    if (!small.ok()) return small.status();
    Json state = {{"format", "vlm-trainer-state"}, {"version", kStateVersion},          {"step", step},
                  {"steps", plan_->steps},         {"fingerprint", plan_->fingerprint}, {"cursor", next.Encode()}};
    if (const std::vector<uint64_t> bad = bad_pictures_->found(); !bad.empty()) state["bad_pictures"] = bad;
    if (skipped_in_a_row_ > 0) state["skipped_in_a_row"] = skipped_in_a_row_;
    (*small)[kTrainerStateFile] = state.dump(1) + "\n";
    (*small)[kCurvesFile] = curve_.Contents();
    for (auto& [name, contents] : *small) {
      checkpoint::FileToWrite file;
      file.name = name;
      file.contents = std::move(contents);
      files->push_back(std::move(file));
    }
    return absl::OkStatus();
  }

  // On a resume: rank 0's curve so far, and whether the checkpoint is of this very run.
  absl::Status ReadTrainerState() {
    if (context_.assignment->resume_step == 0) return absl::OkStatus();
    last_saved_ = context_.assignment->resume_step;
    const std::string& folder = context_.assignment->resume_folder;
    VLM_ASSIGN_OR_RETURN(const std::string text, ReadResumeFile(context_, kTrainerStateFile, kTrainerStateBytesMax));
    if (context_.assignment->rank == 0) {
      VLM_ASSIGN_OR_RETURN(const std::string curve, ReadResumeFile(context_, kCurvesFile, kCurvesBytesMax));
      VLM_RETURN_IF_ERROR(Annotate(curve_.Restore(curve), "curve of " + folder));
    }
    const Json state = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!state.is_object() || state.value("version", 0) != kStateVersion) {
      return absl::DataLossError("trainer state does not parse: " + folder);
    }
    if (state.value("fingerprint", "") != plan_->fingerprint) {
      return absl::FailedPreconditionError(
          "the checkpoint was made with other data or settings (seed, batch sizes, model, ...); submit a new job, or "
          "one "
          "with the settings of before: " +
          folder);
    }
    const Json skipped = state.value("skipped_in_a_row", Json(0u));
    if (!skipped.is_number_unsigned() || skipped.get<uint64_t>() > INT_MAX) {
      return absl::DataLossError("trainer state does not parse: " + folder);
    }
    skipped_in_a_row_ = skipped.get<int>();
    std::vector<uint64_t> bad;
    for (const Json& picture : state.value("bad_pictures", Json::array())) {
      if (!picture.is_number_unsigned()) return absl::DataLossError("trainer state does not parse: " + folder);
      bad.push_back(picture.get<uint64_t>());
    }
    return bad_pictures_->Restore(bad);
  }

  const StageContext& context_;
  const spec::TrainingSettings& settings_;
  std::unique_ptr<IndexedData> data_;
  std::optional<BadPictures> bad_pictures_;
  std::optional<TrainingPlan> plan_;
  ModelConfig config_;
  at::Device device_ = at::kCPU;
  TrainingParts parts_;
  train::StatePlan state_plan_;
  std::vector<std::string> frozen_files_;  // sorted
  uint64_t snapshot_bytes_max_ = 0;        // of this rank's part of a save
  checkpoint::CarriedFiles carried_;
  data::Cursor cursor_;
  TrainingCurve curve_;  // rank 0's
  uint64_t last_saved_ = 0;
  uint64_t unanswered_step_ = 0;  // asked for, and perhaps begun; 0: none
  int skipped_in_a_row_ = 0;
  absl::Duration data_wait_;  // since the last report
  Mutex progress_mutex_;
  Progress progress_ ABSL_GUARDED_BY(progress_mutex_);
  bool waits_for_saves_ ABSL_GUARDED_BY(progress_mutex_) = false;
  Mutex saves_mutex_;
  int failed_saves_in_a_row_ ABSL_GUARDED_BY(saves_mutex_) = 0;
  absl::Status last_save_ ABSL_GUARDED_BY(saves_mutex_);
  std::unique_ptr<data::Loader> loader_;
  checkpoint::StepWriter writer_;  // last: its thread uses what is above
};

}  // namespace

absl::Status RunTraining(const StageContext& context) { return TrainingRun(context).Run(); }

}  // namespace vlm::trainer
