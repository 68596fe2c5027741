#include "train/gradient_norm.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::train {
namespace {

constexpr int64_t kLanes = 8;  // independent sums, so that the loop is not one chain of additions

double BlockSquareSum(const float* values) {
  std::array<double, kLanes> lanes{};
  for (int64_t i = 0; i < kBlockElements; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[lane] += value * value;
    }
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

// The blocks' sums alone come to the host. Within a block in the device's own order.
std::vector<double> BlockSquareSumsOnDevice(const at::Tensor& gradient) {
  const at::Tensor sums = gradient.view({-1, kBlockElements}).to(at::kDouble).square().sum(1).to(at::kCPU).contiguous();
  const double* values = sums.const_data_ptr<double>();
  return std::vector<double>(values, values + sums.numel());
}

int64_t ShardBlocks(const ParameterStore& store, BucketId id) {
  return store.buckets()[id].numel / store.world() / kBlockElements;
}

}  // namespace

std::vector<double> BlockSquareSums(const at::Tensor& gradient) {
  VLM_CHECK(gradient.numel() % kBlockElements == 0, "shards are whole blocks");
  if (!gradient.is_cpu()) return BlockSquareSumsOnDevice(gradient);
  const at::Tensor host = gradient.contiguous();
  const float* values = host.const_data_ptr<float>();
  std::vector<double> sums;
  for (int64_t i = 0; i < host.numel(); i += kBlockElements) sums.push_back(BlockSquareSum(values + i));
  return sums;
}

std::vector<double> ShardSquareSums(const ParameterStore& store, const std::vector<bool>& reached) {
  std::vector<double> sums;
  for (BucketId id = 0; id < static_cast<BucketId>(store.buckets().size()); ++id) {
    if (!reached[id]) continue;
    const std::vector<double> part = BlockSquareSums(store.AccumulatedShard(id));
    sums.insert(sums.end(), part.begin(), part.end());
  }
  return sums;
}

absl::StatusOr<double> JoinSquareSums(const ParameterStore& store, const std::vector<bool>& reached,
                                      const std::vector<std::vector<double>>& by_rank) {
  double total = 0;
  size_t position = 0;  // of the bucket's first block within each rank's sums
  for (BucketId id = 0; id < static_cast<BucketId>(store.buckets().size()); ++id) {
    if (!reached[id]) continue;
    const size_t blocks = static_cast<size_t>(ShardBlocks(store, id));
    for (size_t rank = 0; rank < by_rank.size(); ++rank) {
      if (by_rank[rank].size() < position + blocks) {
        return absl::InternalError(absl::StrCat("square sums of rank ", rank, " are too few: ", by_rank[rank].size()));
      }
      for (size_t block = 0; block < blocks; ++block) total += by_rank[rank][position + block];
    }
    position += blocks;
  }
  return std::sqrt(total);
}

double ClipCoefficient(double norm, double clip) { return clip == 0 ? 1.0 : std::min(1.0, clip / (norm + 1e-6)); }

}  // namespace vlm::train
