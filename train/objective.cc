#include "train/objective.h"

#include <ATen/TensorOperators.h>

#include <string>

namespace vlm::train {
namespace {

class CrossEntropy final : public Objective {
 public:
  CrossEntropy(double label_smoothing, int64_t vocabulary) : smoothing_(label_smoothing), vocabulary_(vocabulary) {}

  std::optional<model::TokenCoefficients> Known(const model::MicroBatch& batch,
                                                const GlobalCounts& global) const override {
    const at::Tensor& weight_K = batch.target_weight_K;
    const double scale = 1.0 / global.target_weight;
    const double c = smoothing_ == 0 ? 0.0 : -smoothing_ * scale / static_cast<double>(vocabulary_);
    return model::TokenCoefficients{weight_K * (-(1.0 - smoothing_) * scale), weight_K * scale, weight_K * c};
  }

  model::Values Seeds(const model::MicroBatch& batch, const GlobalCounts& global) const override {
    const at::Tensor& weight_K = batch.target_weight_K;
    const double scale = 1.0 / global.target_weight;
    const at::Tensor logp_K = weight_K * (-(1.0 - smoothing_) * scale);
    if (smoothing_ == 0) return {logp_K, at::Tensor(), at::Tensor()};
    return {logp_K, weight_K * (smoothing_ * scale), weight_K * (-smoothing_ * scale)};
  }

  double Loss(const model::Values& results, const model::MicroBatch& batch, const GlobalCounts& global) const override {
    const at::Tensor logp_K = results[0].to(at::kCPU, at::kFloat).contiguous();
    const at::Tensor lse_K = results[1].to(at::kCPU, at::kFloat).contiguous();
    const at::Tensor mean_K = results[2].to(at::kCPU, at::kFloat).contiguous();
    const at::Tensor weight_K = batch.target_weight_K.to(at::kCPU, at::kFloat).contiguous();
    const float* logp = logp_K.const_data_ptr<float>();
    const float* lse = lse_K.const_data_ptr<float>();
    const float* mean = mean_K.const_data_ptr<float>();
    const float* weight = weight_K.const_data_ptr<float>();
    double sum = 0;
    for (int64_t k = 0; k < logp_K.numel(); ++k) {
      const double smooth = smoothing_ == 0 ? 0.0 : smoothing_ * (double{lse[k]} - double{mean[k]});
      sum += double{weight[k]} * (smooth - (1.0 - smoothing_) * double{logp[k]});
    }
    return sum / global.target_weight;
  }

 private:
  const double smoothing_;
  const int64_t vocabulary_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Objective>> NewCrossEntropy(double label_smoothing, int64_t vocabulary) {
  if (!(label_smoothing >= 0 && label_smoothing < 1)) {
    return absl::InvalidArgumentError("label smoothing must be at least 0 and below 1: " +
                                      std::to_string(label_smoothing));
  }
  if (label_smoothing > 0 && vocabulary < 1) {
    return absl::InvalidArgumentError("label smoothing needs the size of the vocabulary, got " +
                                      std::to_string(vocabulary));
  }
  return std::make_unique<CrossEntropy>(label_smoothing, vocabulary);
}

}  // namespace vlm::train
