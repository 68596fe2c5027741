// One rank: nothing is communicated, and the arithmetic is that of many.
#include <ATen/ops/zeros.h>

#include <atomic>
#include <string>

#include "base/mutex.h"
#include "train/collective.h"

namespace vlm::train {
namespace {

class SingleRankCollective final : public Collective {
 public:
  int rank() const override { return 0; }
  int world() const override { return 1; }

  absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(Enter());
    return at::zeros({numel}, at::TensorOptions().dtype(type));
  }

  absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                std::string_view tag) override {
    VLM_RETURN_IF_ERROR(Enter());
    if (!contributes) return absl::OkStatus();
    if (send.numel() != accumulator.numel()) return SizeError("ReduceScatterAdd", tag, send, accumulator);
    accumulator.add_(send);
    return absl::OkStatus();
  }

  absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(Enter());
    if (shard.numel() != full.numel()) return SizeError("AllGather", tag, shard, full);
    if (shard.data_ptr() != full.data_ptr()) full.copy_(shard);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(Enter());
    return std::vector<std::string>{std::string(mine)};
  }

  absl::Status Barrier(std::string_view tag) override { return Enter(); }

  void Abort(std::string_view reason) override {
    MutexLock lock(&mutex_);
    if (aborted_.ok()) aborted_ = absl::AbortedError("collective aborted: " + std::string(reason));
  }
  absl::Status health() const override {
    MutexLock lock(&mutex_);
    return aborted_;
  }
  uint64_t sequence() const override { return sequence_.load(std::memory_order_relaxed); }
  uint64_t bytes_communicated() const override { return 0; }

 private:
  absl::Status Enter() {
    sequence_.fetch_add(1, std::memory_order_relaxed);
    MutexLock lock(&mutex_);
    return aborted_;
  }

  static absl::Status SizeError(std::string_view operation, std::string_view tag, const at::Tensor& a,
                                const at::Tensor& b) {
    return absl::FailedPreconditionError(std::string(operation) + " of sizes that do not fit: tag \"" +
                                         std::string(tag) + "\", " + std::to_string(a.numel()) + " and " +
                                         std::to_string(b.numel()) + " elements");
  }

  std::atomic<uint64_t> sequence_{0};
  mutable Mutex mutex_;
  absl::Status aborted_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Collective> NewSingleRankCollective() { return std::make_unique<SingleRankCollective>(); }

}  // namespace vlm::train
