#include "data/loader.h"

#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "data/image/resample.h"
#include "data/record_file.h"

namespace vlm::data {
namespace {

// Threads take (step, micro-batch) jobs in order; Next hands steps out in order. At most `steps_ahead` steps are
// planned and not yet taken.
class ThreadedLoader final : public Loader {
 public:
  ThreadedLoader(BatchPlan plan, const SampleReader* reader, Cursor cursor, uint64_t first_step, Options options)
      : plan_(std::move(plan)), reader_(reader), options_(options), cursor_(cursor), next_step_(first_step) {
    for (int i = 0; i < std::max(1, options.threads); ++i) threads_.emplace_back([this] { Run(); });
  }

  ~ThreadedLoader() override {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    changed_.NotifyAll();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::StatusOr<Step> Next() override {
    MutexLock lock(&mutex_);
    while (!FrontIsReady()) {
      if (planned_.empty() && next_step_ > options_.last_step) {
        return absl::OutOfRangeError(absl::StrCat("no step is loaded after the last one: ", options_.last_step));
      }
      changed_.Wait(&mutex_);
    }
    if (!planned_.front().error.ok()) return planned_.front().error;  // it stays at the front
    Step step = std::move(planned_.front().step);
    planned_.pop_front();
    changed_.NotifyAll();
    return step;
  }

 private:
  struct Job {
    uint32_t m = 0;
    size_t slot = 0;  // in Step::mine
    std::vector<Row> rows;
  };
  struct Planned {
    Step step;
    std::deque<Job> jobs;
    int loading = 0;
    absl::Status error;  // of its first sample that could not be loaded
  };

  bool FrontIsReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !planned_.empty() && planned_.front().loading == 0 && planned_.front().jobs.empty();
  }

  // Plans the next step. Cheap: no file is read.
  void PlanStep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    StepBatch batch = plan_.Next(cursor_);
    Planned planned;
    planned.step.step = next_step_++;
    planned.step.micro_batches = batch.micro_batches();
    planned.step.next = cursor_ = batch.next;
    Sha256 samples;
    for (const Row& row : batch.rows) {
      samples.Update(std::as_bytes(std::span(row)));
      samples.Update(";");
    }
    planned.step.samples = samples.Finish();
    for (uint32_t m = static_cast<uint32_t>(options_.rank); m < batch.micro_batches();
         m += static_cast<uint32_t>(options_.world)) {
      planned.jobs.push_back({m, planned.jobs.size(), batch.MicroBatch(m)});
    }
    planned.step.mine.resize(planned.jobs.size());
    planned_.push_back(std::move(planned));
  }

  // The first job not yet started, planning a step when there is room.
  Planned* NextWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (Planned& planned : planned_) {
      if (!planned.jobs.empty()) return &planned;
    }
    while (planned_.size() < options_.steps_ahead && next_step_ <= options_.last_step) {
      PlanStep();
      changed_.NotifyAll();  // a step without a job of ours is ready at once
      if (!planned_.back().jobs.empty()) return &planned_.back();
    }
    return nullptr;
  }

  void Run() {
    MutexLock lock(&mutex_);
    while (!stopping_) {
      Planned* const planned = NextWork();
      if (planned == nullptr) {
        changed_.Wait(&mutex_);
        continue;
      }
      const Job job = std::move(planned->jobs.front());
      planned->jobs.pop_front();
      ++planned->loading;
      mutex_.Unlock();
      absl::StatusOr<HostMicroBatch> batch = reader_->Load(job.m, job.rows);
      mutex_.Lock();
      // A deque keeps its elements in place when others come or go, and a step is not taken while loading.
      --planned->loading;
      if (batch.ok()) {
        planned->step.mine[job.slot] = *std::move(batch);
      } else if (planned->error.ok()) {
        planned->error = batch.status();
      }
      changed_.NotifyAll();
    }
  }

  BatchPlan plan_ ABSL_GUARDED_BY(mutex_);
  const SampleReader* const reader_;
  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  Cursor cursor_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_step_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Planned> planned_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace

absl::Status AppendPixels(std::string_view encoded, const PixelOptions& options, std::vector<float>* out) {
  VLM_ASSIGN_OR_RETURN(const Image decoded,
                       DecodeImage(std::as_bytes(std::span(encoded.data(), encoded.size())), options.limits));
  VLM_ASSIGN_OR_RETURN(const Image resized, Resize(decoded, options.size, options.size, ResampleFilter::kBicubic));
  const size_t start = out->size();
  out->resize(start + 3 * static_cast<size_t>(options.size) * static_cast<size_t>(options.size));
  return NormaliseInto(resized, options.normalisation, std::span(*out).subspan(start));
}

void AppendSample(const Sample& sample, HostMicroBatch* batch) {
  if (batch->document_starts.empty()) batch->document_starts.push_back(0);
  const int64_t start = static_cast<int64_t>(batch->ids_N.size());
  for (const auto& part : sample.parts) {
    if (const auto* span = std::get_if<ImageSpan>(&part)) {
      for (int32_t i = 0; i < span->tokens; ++i) {
        batch->image_row_V.push_back(static_cast<int64_t>(batch->ids_N.size()));
        batch->ids_N.push_back(span->id);
      }
      ++batch->images;
      continue;
    }
    const TextRun& run = std::get<TextRun>(part);
    for (const int32_t id : run.ids) {
      const int64_t position = static_cast<int64_t>(batch->ids_N.size());
      if (run.target && position > start) {
        batch->target_index_K.push_back(position - 1);
        batch->target_id_K.push_back(id);
        batch->target_weight_K.push_back(1.0f);
        batch->target_weight += 1.0;
      }
      batch->ids_N.push_back(id);
    }
  }
  const int64_t end = static_cast<int64_t>(batch->ids_N.size());
  for (int64_t position = 0; position < end - start; ++position) batch->positions_N.push_back(position);
  batch->document_starts.push_back(end);
}

absl::StatusOr<std::unique_ptr<SampleReader>> SampleReader::Create(FileSystem* files, const Manifest* manifest,
                                                                   const ChatTemplate* chat_template,
                                                                   PixelOptions pixels, size_t open_files_max) {
  if (chat_template->name() != manifest->render.chat_template || pixels.size != manifest->render.image_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("data was indexed for template ", manifest->render.chat_template, " and pictures of ",
                     manifest->render.image_size, " pixels, not for ",
                     absl::string_view(chat_template->name().data(), chat_template->name().size()), " and ",
                     pixels.size, "; index it again"));
  }
  auto open_files = std::make_unique<OpenFiles>(files, manifest, open_files_max);
  for (uint32_t file = 0; file < manifest->files.size(); ++file) {
    VLM_RETURN_IF_ERROR(open_files->Get(file).status());
  }
  return std::unique_ptr<SampleReader>(new SampleReader(manifest, chat_template, pixels, std::move(open_files)));
}

std::string SampleReader::PlaceOf(const SampleRecord& record) const {
  return absl::StrCat(manifest_->files[record.file].path, " at offset ", record.json_offset);
}

absl::StatusOr<SampleReader::Loaded> SampleReader::Read(uint64_t sample) const {
  const SampleRecord& record = manifest_->samples[sample];
  VLM_ASSIGN_OR_RETURN(const std::shared_ptr<const ReadableFile> file, open_files_->Get(record.file));
  VLM_ASSIGN_OR_RETURN(const std::string json, ReadSpan(*file, {record.json_offset, record.json_bytes}));
  absl::StatusOr<Conversation> conversation = ParseConversation(json, static_cast<int>(record.images));
  if (!conversation.ok()) return Annotate(conversation.status(), PlaceOf(record));
  Loaded loaded;
  loaded.conversation = *std::move(conversation);
  absl::StatusOr<Sample> rendered =
      chat_template_->Render(loaded.conversation, {.image_tokens = manifest_->render.image_tokens});
  if (!rendered.ok()) return Annotate(rendered.status(), PlaceOf(record));
  loaded.sample = *std::move(rendered);
  Truncate(&loaded.sample, manifest_->render.context);
  if (loaded.sample.tokens() != record.tokens || loaded.sample.targets() != record.targets) {
    return absl::FailedPreconditionError(absl::StrCat(
        "record has changed since it was indexed, index it again (", record.tokens, " tokens and ", record.targets,
        " targets then, ", loaded.sample.tokens(), " and ", loaded.sample.targets(), " now): ", PlaceOf(record)));
  }
  // The image marks left after cutting are the first ones, so are the pictures.
  const uint32_t images = static_cast<uint32_t>(loaded.sample.images());
  for (uint32_t i = 0; i < images; ++i) {
    const ImageRecord& image = manifest_->images[record.first_image + i];
    std::string& encoded = loaded.images.emplace_back();
    if ((image.flags & kBadPictureFlag) != 0) continue;
    VLM_ASSIGN_OR_RETURN(encoded, ReadSpan(*file, {image.offset, image.bytes}));
  }
  return loaded;
}

absl::Status SampleReader::AppendPictures(uint64_t sample, const Loaded& loaded, std::vector<float>* pixels,
                                          std::vector<BadPicture>* bad) const {
  const SampleRecord& record = manifest_->samples[sample];
  const size_t picture_floats = 3 * static_cast<size_t>(pixels_.size) * static_cast<size_t>(pixels_.size);
  for (size_t i = 0; i < loaded.images.size(); ++i) {
    const uint64_t picture = record.first_image + i;
    const ImageRecord& image = manifest_->images[picture];
    const size_t start = pixels->size();
    if (loaded.Bad(i)) {
      pixels->resize(start + picture_floats, 0.0f);
      continue;
    }
    const absl::Status decoded = AppendPixels(loaded.images[i], pixels_, pixels);
    if (decoded.ok()) continue;
    const std::string what =
        absl::StrCat(manifest_->files[record.file].path, ": picture at offset ", image.offset,
                     " of the record at offset ", record.json_offset, ": ", absl::string_view(decoded.message()));
    if (bad == nullptr || manifest_->bad_pictures.policy == BadPicturePolicy::kFail) {
      return absl::InvalidArgumentError(absl::StrCat(
          "picture does not decode and did when it was indexed; restore the file, or index it again: ", what));
    }
    pixels->resize(start);
    pixels->resize(start + picture_floats, 0.0f);
    bad->push_back({picture, what});
  }
  return absl::OkStatus();
}

absl::Status SampleReader::AddSample(uint64_t sample, HostMicroBatch* batch) const {
  VLM_ASSIGN_OR_RETURN(const Loaded loaded, Read(sample));
  const size_t targets = batch->target_weight_K.size(), bad = batch->bad_pictures.size();
  AppendSample(loaded.sample, batch);
  VLM_RETURN_IF_ERROR(AppendPictures(sample, loaded, &batch->pixels, &batch->bad_pictures));
  if (batch->bad_pictures.size() == bad || manifest_->bad_pictures.policy != BadPicturePolicy::kDrop) {
    return absl::OkStatus();
  }
  for (size_t k = targets; k < batch->target_weight_K.size(); ++k) {
    batch->target_weight -= double{std::exchange(batch->target_weight_K[k], 0.0f)};
  }
  return absl::OkStatus();
}

absl::StatusOr<HostMicroBatch> SampleReader::Load(uint32_t m, const std::vector<Row>& rows) const {
  HostMicroBatch batch;
  batch.index = m;
  for (const Row& row : rows) {
    for (const uint64_t sample : row) VLM_RETURN_IF_ERROR(AddSample(sample, &batch));
  }
  return batch;
}

std::unique_ptr<Loader> Loader::Start(BatchPlan plan, const SampleReader* reader, Cursor cursor, uint64_t first_step,
                                      Options options) {
  return std::make_unique<ThreadedLoader>(std::move(plan), reader, cursor, first_step, options);
}

}  // namespace vlm::data
