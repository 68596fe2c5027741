// Which samples make up which optimizer step: a pure function of the manifest and a few settings, the same for
// any number of ranks.
#ifndef VLM_DATA_BATCH_PLAN_H_
#define VLM_DATA_BATCH_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/status.h"
#include "data/manifest.h"
#include "data/order.h"

namespace vlm::data {

struct MixtureEntry {
  std::string source;
  double weight = 1;
  uint64_t stop = 0;  // use only the first `stop` samples; 0: all
};

struct BatchOptions {
  uint64_t seed = 0;
  std::vector<MixtureEntry> mixture;
  uint32_t global_batch = 1;  // rows per optimizer step
  uint32_t micro_batch = 1;   // rows per micro-batch; the last of a step may be short
  bool packing = false;       // rows are packs of at most the manifest's context; else one sample a row
};

// Where the next step begins. Stored only inside a committed step.
struct Cursor {
  uint64_t window = 0;  // with packing: the window of the global order
  uint64_t row = 0;     // rows of that window already used; without packing: rows used in all
  std::string Encode() const;
  static absl::StatusOr<Cursor> Decode(std::string_view text);
  friend bool operator==(const Cursor&, const Cursor&) = default;
};

// Manifest sample numbers of one row; several with packing.
using Row = std::vector<uint64_t>;

struct StepBatch {
  std::vector<Row> rows;
  Cursor next;
  // Rows of micro-batch m, m in [0, micro_batches).
  uint32_t micro_batch = 1;
  uint32_t micro_batches() const { return (static_cast<uint32_t>(rows.size()) + micro_batch - 1) / micro_batch; }
  std::vector<Row> MicroBatch(uint32_t m) const;
};

// Thread-compatible: Next caches the packs of the window it last met.
class BatchPlan {
 public:
  // Samples of the order that are packed together; packs never span two windows.
  static constexpr uint64_t kWindow = 2048;

  // `manifest` must outlive the plan. NOT_FOUND names an unknown source (and the known ones);
  // INVALID_ARGUMENT names a setting out of range.
  static absl::StatusOr<BatchPlan> Create(const Manifest* manifest, const BatchOptions& options);

  StepBatch Next(const Cursor& cursor);
  // Optimizer steps of `epochs` passes over the mixture. With packing an estimate from total tokens at
  // perfect fill would be too small; this counts the packs of the first windows and scales.
  uint64_t StepsOf(double epochs);
  // Everything the sequence of samples depends on; equal digests mean equal batches.
  Digest Fingerprint(std::string_view manifest_digest) const;

 private:
  BatchPlan(const Manifest* manifest, BatchOptions options, std::vector<uint64_t> first, Order order)
      : manifest_(manifest), options_(std::move(options)), first_(std::move(first)), order_(std::move(order)) {}
  uint64_t SampleAt(uint64_t position) const;
  const std::vector<Row>& Window(uint64_t window);

  const Manifest* manifest_;
  BatchOptions options_;
  std::vector<uint64_t> first_;  // manifest sample number of each mixture entry's first sample
  Order order_;
  uint64_t cached_window_ = ~uint64_t{0};
  std::vector<Row> cached_rows_;
};

}  // namespace vlm::data

#endif  // VLM_DATA_BATCH_PLAN_H_
