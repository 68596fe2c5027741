#include "model/ops/token_loss.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace vlm::model::ops {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;
constexpr int64_t kFewestTargets = 64;  // a GEMM of fewer rows wastes the weights it streams

at::ScalarType LossType(const at::Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor Logits(const HeadInput& in, int64_t begin, int64_t count) {
  return at::mm(in.hidden_KD.narrow(0, begin, count), in.weight_VD.t()).to(LossType(in.hidden_KD));
}

HeadResults Statistics(const at::Tensor& logits, const at::Tensor& targets) {
  const at::Tensor lse = at::logsumexp(logits, 1);
  const at::Tensor chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1);
  return {chosen - lse, lse, logits.mean(1)};
}

// dL/dlogits in the memory of the logits: softmax * b + c, then a at the target.
at::Tensor LogitGradient(at::Tensor logits, const at::Tensor& lse, const at::Tensor& targets,
                         const TokenCoefficients& k) {
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
      at::Tensor place = gradients_.d_hidden_KD.narrow(0, begin, count);
      at::mm_out(place, dl, in_.weight_VD);
    }
    if (!weight_.defined()) return;
    const at::Tensor hidden = in_.hidden_KD.narrow(0, begin, count);
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
    writer.Add(LogitGradient(Logits(in, begin, count), lse_K.narrow(0, begin, count), ids,
                             Narrow(coefficients, begin, count)),
               begin);
  }
  return writer.Take();
}

TokenCoefficients CoefficientsFromGradients(const HeadResults& gradients, int64_t targets, int64_t vocabulary,
                                            const at::TensorOptions& options) {
  const auto or_zero = [&](const at::Tensor& x) { return x.defined() ? x : at::zeros({targets}, options); };
  const at::Tensor d_logp = or_zero(gradients.logp_K);
  return {d_logp, or_zero(gradients.lse_K) - d_logp,
          or_zero(gradients.mean_logit_K) / static_cast<double>(vocabulary)};
}

}  // namespace vlm::model::ops
