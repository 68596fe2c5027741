#include "model/ops/token_loss.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "model/ops/exp.h"
#include "model/ops/parallel.h"
#include "model/ops/product_threads.h"

namespace vlm::model::ops {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;
constexpr int64_t kFewestTargets = 64;  // a GEMM of fewer rows wastes the weights it streams

at::ScalarType LossType(const at::Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor Logits(const HeadInput& in, int64_t begin, int64_t count) {
  const ProductThreads threads(count, in.weight_VD.size(0));
  return at::mm(in.hidden_KD.narrow(0, begin, count), in.weight_VD.t()).to(LossType(in.hidden_KD));
}

// Sums run in fp32 inside a block and in fp64 over blocks: a row of a large vocabulary would lose digits.
constexpr int64_t kSumBlock = 4096;
constexpr int64_t kRowsPerThread = 8;

bool Fused(const at::Tensor& logits) {
  return logits.is_cpu() && logits.scalar_type() == at::kFloat && logits.is_contiguous();
}

struct RowStatistics {
  float lse, mean;
};

__attribute__((always_inline)) inline RowStatistics StatisticsOfRow(const float* logits, int64_t width) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < width; ++j) largest = logits[j] > largest ? logits[j] : largest;
  double total = 0, exponentials = 0;
  for (int64_t first = 0; first < width; first += kSumBlock) {
    const int64_t last = std::min(width, first + kSumBlock);
    float sum = 0, exponential_sum = 0;
#pragma omp simd reduction(+ : sum, exponential_sum)
    for (int64_t j = first; j < last; ++j) {
      sum += logits[j];
      exponential_sum += Exp(logits[j] - largest);
    }
    total += sum;
    exponentials += exponential_sum;
  }
  return {largest + static_cast<float>(std::log(exponentials)), static_cast<float>(total / width)};
}

HeadResults FusedStatistics(const at::Tensor& logits, const at::Tensor& targets) {
  const int64_t rows = logits.size(0), width = logits.size(1);
  const HeadResults results = {at::empty({rows}, logits.options()), at::empty({rows}, logits.options()),
                               at::empty({rows}, logits.options())};
  const at::Tensor ids = targets.contiguous();
  const float* source = logits.const_data_ptr<float>();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  float *logp = results.logp_K.mutable_data_ptr<float>(), *lse = results.lse_K.mutable_data_ptr<float>();
  float* mean = results.mean_logit_K.mutable_data_ptr<float>();
  ParallelRows(rows, kRowsPerThread, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t r = begin; r < end; ++r) {
      const RowStatistics row = StatisticsOfRow(source + r * width, width);
      lse[r] = row.lse;
      mean[r] = row.mean;
      logp[r] = source[r * width + id[r]] - row.lse;
    }
  });
  return results;
}

HeadResults Statistics(const at::Tensor& logits, const at::Tensor& targets) {
  if (Fused(logits)) return FusedStatistics(logits, targets);
  const at::Tensor lse = at::logsumexp(logits, 1);
  const at::Tensor chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1);
  return {chosen - lse, lse, logits.mean(1)};
}

void FusedLogitGradient(at::Tensor logits, const at::Tensor& lse_K, const at::Tensor& targets,
                        const TokenCoefficients& k) {
  const int64_t rows = logits.size(0), width = logits.size(1);
  const auto fp32 = [](const at::Tensor& x) { return x.to(at::kFloat).contiguous(); };
  const at::Tensor a_K = fp32(k.a_K), b_K = fp32(k.b_K), c_K = fp32(k.c_K), ids = targets.contiguous();
  const at::Tensor lse_contiguous = lse_K.contiguous();
  const float *a = a_K.const_data_ptr<float>(), *b = b_K.const_data_ptr<float>(), *c = c_K.const_data_ptr<float>();
  const float* lse = lse_contiguous.const_data_ptr<float>();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  float* data = logits.mutable_data_ptr<float>();
  ParallelRows(rows, kRowsPerThread, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = data + r * width;
      const float shift = lse[r], scale = b[r], constant = c[r];
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) row[j] = Exp(row[j] - shift) * scale + constant;
      row[id[r]] += a[r];
    }
  });
}

// dL/dlogits in the memory of the logits: softmax * b + c, then a at the target.
at::Tensor LogitGradient(at::Tensor logits, const at::Tensor& lse, const at::Tensor& targets,
                         const TokenCoefficients& k) {
  if (Fused(logits)) {
    FusedLogitGradient(logits, lse, targets, k);
    return logits;
  }
  const at::ScalarType type = logits.scalar_type();
  logits.sub_(lse.unsqueeze(1)).exp_().mul_(k.b_K.to(type).unsqueeze(1));
  logits.add_(k.c_K.to(type).unsqueeze(1));
  return logits.scatter_add_(1, targets.unsqueeze(1), k.a_K.to(type).unsqueeze(1));
}

TokenCoefficients Narrow(const TokenCoefficients& all, int64_t begin, int64_t count) {
  return {all.a_K.narrow(0, begin, count), all.b_K.narrow(0, begin, count), all.c_K.narrow(0, begin, count)};
}

HeadResults EmptyResults(const HeadInput& in) {
  const int64_t targets = in.hidden_KD.size(0);
  const auto options = in.hidden_KD.options().dtype(LossType(in.hidden_KD));
  return {at::empty({targets}, options), at::empty({targets}, options), at::empty({targets}, options)};
}

void Store(const HeadResults& chunk, int64_t begin, HeadResults* all) {
  const int64_t count = chunk.lse_K.size(0);
  all->logp_K.narrow(0, begin, count).copy_(chunk.logp_K);
  all->lse_K.narrow(0, begin, count).copy_(chunk.lse_K);
  all->mean_logit_K.narrow(0, begin, count).copy_(chunk.mean_logit_K);
}

// Collects the gradients of one chunk after another.
class GradientWriter {
 public:
  GradientWriter(const HeadInput& in, const HeadWanted& wanted) : in_(in) {
    if (wanted.hidden) gradients_.d_hidden_KD = at::empty_like(in.hidden_KD);
    if (!wanted.weight) return;
    weight_ = wanted.weight_slot_VD;
    if (weight_.defined()) return;
    weight_ = at::zeros(in.weight_VD.sizes(), in.weight_VD.options().dtype(LossType(in.hidden_KD)));
    gradients_.d_weight_VD = weight_;
  }

  void Add(const at::Tensor& d_logits, int64_t begin) {
    const int64_t count = d_logits.size(0);
    const at::Tensor dl = d_logits.to(in_.weight_VD.scalar_type());
    if (gradients_.d_hidden_KD.defined()) {
      const ProductThreads threads(count, in_.weight_VD.size(1));
      at::Tensor place = gradients_.d_hidden_KD.narrow(0, begin, count);
      at::mm_out(place, dl, in_.weight_VD);
    }
    if (!weight_.defined()) return;
    const at::Tensor hidden = in_.hidden_KD.narrow(0, begin, count);
    const ProductThreads threads(weight_.size(0), weight_.size(1));
    if (weight_.scalar_type() == dl.scalar_type()) {
      weight_.addmm_(dl.t(), hidden);
    } else {
      weight_.add_(at::mm(dl.t(), hidden));
    }
  }

  HeadGradients Take() { return std::move(gradients_); }

 private:
  const HeadInput& in_;
  HeadGradients gradients_;
  at::Tensor weight_;
};

}  // namespace

int64_t TargetsPerChunk(int64_t vocabulary) { return std::max(kFewestTargets, kChunkElements / vocabulary); }

HeadResults HeadDefinition(const HeadInput& in) {
  return Statistics(at::linear(in.hidden_KD, in.weight_VD).to(LossType(in.hidden_KD)), in.target_id_K);
}

HeadResults HeadForward(const HeadInput& in) {
  const c10::NoGradGuard no_grad;
  HeadResults results = EmptyResults(in);
  const int64_t targets = in.hidden_KD.size(0), step = TargetsPerChunk(in.weight_VD.size(0));
  for (int64_t begin = 0; begin < targets; begin += step) {
    const int64_t count = std::min(step, targets - begin);
    Store(Statistics(Logits(in, begin, count), in.target_id_K.narrow(0, begin, count)), begin, &results);
  }
  return results;
}

HeadPass HeadForwardBackward(const HeadInput& in, const TokenCoefficients& coefficients, const HeadWanted& wanted) {
  const c10::NoGradGuard no_grad;
  HeadPass pass{EmptyResults(in), {}};
  GradientWriter writer(in, wanted);
  const int64_t targets = in.hidden_KD.size(0), step = TargetsPerChunk(in.weight_VD.size(0));
  for (int64_t begin = 0; begin < targets; begin += step) {
    const int64_t count = std::min(step, targets - begin);
    const at::Tensor ids = in.target_id_K.narrow(0, begin, count);
    at::Tensor logits = Logits(in, begin, count);
    const HeadResults chunk = Statistics(logits, ids);
    Store(chunk, begin, &pass.results);
    writer.Add(LogitGradient(logits, chunk.lse_K, ids, Narrow(coefficients, begin, count)), begin);
  }
  pass.gradients = writer.Take();
  return pass;
}

HeadGradients HeadBackward(const HeadInput& in, const at::Tensor& lse_K, const TokenCoefficients& coefficients,
                           const HeadWanted& wanted) {
  const c10::NoGradGuard no_grad;
  GradientWriter writer(in, wanted);
  const int64_t targets = in.hidden_KD.size(0), step = TargetsPerChunk(in.weight_VD.size(0));
  for (int64_t begin = 0; begin < targets; begin += step) {
    const int64_t count = std::min(step, targets - begin);
    const at::Tensor ids = in.target_id_K.narrow(0, begin, count);
    writer.Add(
        LogitGradient(Logits(in, begin, count), lse_K.narrow(0, begin, count), ids, Narrow(coefficients, begin, count)),
        begin);
  }
  return writer.Take();
}

TokenCoefficients CoefficientsFromGradients(const HeadResults& gradients, int64_t targets, int64_t vocabulary,
                                            const at::TensorOptions& options) {
  const auto or_zero = [&](const at::Tensor& x) { return x.defined() ? x : at::zeros({targets}, options); };
  const at::Tensor d_logp = or_zero(gradients.logp_K);
  return {d_logp, or_zero(gradients.lse_K) - d_logp, or_zero(gradients.mean_logit_K) / static_cast<double>(vocabulary)};
}

}  // namespace vlm::model::ops
