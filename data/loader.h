// From a step's rows to arrays: reads, renders, decodes and lays out micro-batches ahead of their use.
#ifndef VLM_DATA_LOADER_H_
#define VLM_DATA_LOADER_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "data/batch_plan.h"
#include "data/chat_template.h"
#include "data/image/image.h"
#include "data/image/normalise.h"
#include "data/manifest.h"
#include "data/open_files.h"

namespace vlm::data {

// How pictures become pixels; one definition for training, evaluation and chat.
struct PixelOptions {
  int32_t size = 0;  // pictures are resized to size x size, bicubic, as Pillow does
  Normalisation normalisation;
  DecodeLimits limits;
};

// A picture that does not decode although the index found it good.
struct BadPicture {
  uint64_t picture = 0;  // in the manifest's image table
  std::string what;      // file, offset and the decoder's reason
};

// One micro-batch as plain arrays. N tokens, K targets, I images, V vision tokens; see model/graph.h.
struct HostMicroBatch {
  uint32_t index = 0;  // m within the step
  std::vector<int64_t> ids_N, positions_N;
  std::vector<int64_t> document_starts;  // documents + 1 entries, the last is N
  std::vector<int64_t> target_index_K, target_id_K;
  std::vector<float> target_weight_K;
  std::vector<float> pixels;  // [I, 3, size, size]
  std::vector<int64_t> image_row_V;
  int64_t images = 0;
  double target_weight = 0;  // sum over K
  std::vector<BadPicture> bad_pictures;
};

// One picture as the model sees it, [3, size, size], appended to `out`. Errors are the decoder's.
absl::Status AppendPixels(std::string_view encoded, const PixelOptions& options, std::vector<float>* out);

// Reads samples of a manifest. Thread-safe.
class SampleReader {
 public:
  // Opens every file of the manifest once and checks its size; of those at most `open_files_max` stay open at a time.
  // FAILED_PRECONDITION when a file's size is not what was indexed, or when the template or picture size are not those
  // the manifest was made with. Everything given must outlive the reader.
  static absl::StatusOr<std::unique_ptr<SampleReader>> Create(FileSystem* files, const Manifest* manifest,
                                                              const ChatTemplate* chat_template, PixelOptions pixels,
                                                              size_t open_files_max = OpenFiles::kOpenMaxDefault);

  struct Loaded {
    Conversation conversation;
    Sample sample;                    // rendered, cut to the context
    std::vector<std::string> images;  // encoded, in order; empty for one that the index marked as bad

    bool Bad(size_t image) const { return images[image].empty(); }
  };
  // Errors name the file and the sample's offset in it. FAILED_PRECONDITION when the record is not the one that was
  // indexed.
  absl::StatusOr<Loaded> Read(uint64_t sample) const;

  // Appends the pixels of `loaded`'s pictures; those of a bad picture are zeros, the mean colour. One that the index
  // marked as bad is not looked at again. One that has gone bad since is appended to `bad`; with the manifest's policy
  // fail, or with `bad` null, it is INVALID_ARGUMENT, naming file, offset and remedy.
  absl::Status AppendPictures(uint64_t sample, const Loaded& loaded, std::vector<float>* pixels,
                              std::vector<BadPicture>* bad) const;

  // Rows of a micro-batch one after another on the token axis, each sample a document of its own. A bad picture keeps
  // its sample's shapes; with the policy drop the sample's target weights are zero.
  absl::StatusOr<HostMicroBatch> Load(uint32_t m, const std::vector<Row>& rows) const;

  const Manifest& manifest() const { return *manifest_; }
  const PixelOptions& pixels() const { return pixels_; }

 private:
  SampleReader(const Manifest* manifest, const ChatTemplate* chat_template, PixelOptions pixels,
               std::unique_ptr<OpenFiles> open_files)
      : manifest_(manifest), chat_template_(chat_template), pixels_(pixels), open_files_(std::move(open_files)) {}
  std::string PlaceOf(const SampleRecord& record) const;
  absl::Status AddSample(uint64_t sample, HostMicroBatch* batch) const;
  const Manifest* const manifest_;
  const ChatTemplate* const chat_template_;
  const PixelOptions pixels_;
  const std::unique_ptr<OpenFiles> open_files_;
};

// Lays a rendered sample into a micro-batch as a new document. Its pixels are the caller's to append.
void AppendSample(const Sample& sample, HostMicroBatch* batch);

// Micro-batches of this rank, one optimizer step after another, prepared on background threads.
class Loader {
 public:
  struct Options {
    int rank = 0;
    int world = 1;
    int threads = 1;
    uint32_t steps_ahead = 2;                                   // steps kept ready; bounds memory
    uint64_t last_step = std::numeric_limits<uint64_t>::max();  // nothing of later steps is read
  };
  struct Step {
    uint64_t step = 0;                 // optimizer step this feeds, counted from 1
    uint32_t micro_batches = 0;        // of the whole step, over all ranks
    Cursor next;                       // where the step after it begins
    std::vector<HostMicroBatch> mine;  // m = rank, rank + world, ...
    Digest samples;                    // of the step's global sample numbers
  };

  // Starts at `cursor`, whose batch feeds optimizer step `first_step`. `reader` must outlive the loader.
  static std::unique_ptr<Loader> Start(BatchPlan plan, const SampleReader* reader, Cursor cursor, uint64_t first_step,
                                       Options options);
  virtual ~Loader() = default;  // stops the threads
  // Blocks until the next step is ready. The error of a sample is returned when its step's turn comes, and by every
  // call after that. OUT_OF_RANGE after the last step.
  virtual absl::StatusOr<Step> Next() = 0;
};

}  // namespace vlm::data

#endif  // VLM_DATA_LOADER_H_
