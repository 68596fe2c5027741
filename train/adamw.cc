#include "train/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "model/ops/parallel.h"
#include "train/selection.h"

namespace vlm::train {
namespace {

// Fewer elements are updated faster by one thread than handed to several.
constexpr int64_t kElementsPerTask = 1 << 15;

absl::Status CheckNumber(std::string_view what, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(absl::string_view(what.data(), what.size()), " must be finite and not negative: ", value));
}

absl::Status CheckOptions(const AdamWOptions& options) {
  VLM_RETURN_IF_ERROR(CheckNumber("learning rate", options.lr.value_or(0)));
  VLM_RETURN_IF_ERROR(CheckNumber("weight decay", options.weight_decay));
  VLM_RETURN_IF_ERROR(CheckNumber("optimizer epsilon", options.epsilon));
  for (double beta : {options.beta1, options.beta2}) {
    if (!(beta >= 0 && beta < 1)) {
      return absl::InvalidArgumentError(absl::StrCat("AdamW's betas must be at least 0 and below 1: ", beta));
    }
  }
  for (const GroupRule& rule : options.rules) {
    VLM_RETURN_IF_ERROR(CheckNumber("learning rate of " + rule.pattern, rule.lr.value_or(0)));
    VLM_RETURN_IF_ERROR(CheckNumber("weight decay of " + rule.pattern, rule.weight_decay.value_or(0)));
  }
  return absl::OkStatus();
}

struct Setting {
  std::optional<double> lr;
  double weight_decay = 0;
};

absl::StatusOr<std::vector<Setting>> SettingsOfParameters(const model::Graph& graph, const std::vector<bool>& trainable,
                                                          const AdamWOptions& options) {
  std::vector<Setting> settings(graph.params.size());
  for (size_t param = 0; param < settings.size(); ++param) {
    const bool decays = graph.params[param].decay != model::DecayClass::kNormOrBias;
    settings[param] = {options.lr, decays ? options.weight_decay : 0.0};
  }
  for (const GroupRule& rule : options.rules) {
    VLM_ASSIGN_OR_RETURN(const std::vector<bool> selected, rule.naming == Naming::kGlob
                                                               ? SelectByGlob(graph, rule.pattern)
                                                               : SelectParameters(graph, rule.pattern));
    bool any = false;
    for (size_t param = 0; param < settings.size(); ++param) {
      if (!selected[param] || !trainable[param]) continue;
      any = true;
      if (rule.lr.has_value()) settings[param].lr = rule.lr;
      if (rule.weight_decay.has_value()) settings[param].weight_decay = *rule.weight_decay;
    }
    if (!any) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter group names only frozen parameters; train them or remove the rule: ", rule.pattern));
    }
  }
  return settings;
}

// Scalars rounded to fp32 once, so that every element sees the same ones.
struct Factors {
  float decay, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_root_bias2, epsilon, scale;
};

Factors MakeFactors(const AdamWScalars& s) {
  const double bias1 = 1.0 - std::pow(s.beta1, static_cast<double>(s.step));
  const double bias2 = 1.0 - std::pow(s.beta2, static_cast<double>(s.step));
  return {static_cast<float>(1.0 - s.lr * s.weight_decay),
          static_cast<float>(1.0 - s.beta1),
          static_cast<float>(s.beta2),
          static_cast<float>(1.0 - s.beta2),
          static_cast<float>(s.lr / bias1),
          static_cast<float>(1.0 / std::sqrt(bias2)),
          static_cast<float>(s.epsilon),
          static_cast<float>(s.gradient_scale)};
}

// The choice among clones runs while the program is loaded, before ThreadSanitizer's run-time can be called.
#ifdef __SANITIZE_THREAD__
#define VLM_CPU_CLONES
#else
#define VLM_CPU_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

// Compiled without contraction into fused multiply-adds, so vector bodies and scalar tails round alike. Division and
// square root are correctly rounded in both.
VLM_CPU_CLONES void UpdateRange(const Factors& factors, float* __restrict p, float* __restrict m, float* __restrict v,
                                absl::Span<const float> gradients) {
  const Factors f = factors;
  const float* const __restrict g = gradients.data();
  for (size_t i = 0; i < gradients.size(); ++i) {
    const float gradient = g[i] * f.scale;
    const float first = m[i] + f.one_minus_beta1 * (gradient - m[i]);
    const float second = f.beta2 * v[i] + f.one_minus_beta2 * (gradient * gradient);
    m[i] = first;
    v[i] = second;
    const float denominator = std::sqrt(second) * f.inverse_root_bias2 + f.epsilon;
    p[i] = p[i] * f.decay - f.step_size * (first / denominator);
  }
}

// On a device: LibTorch's fused kernel, whose elements do not depend on the range either.
void UpdateOnDevice(const AdamWScalars& s, at::Tensor master, at::Tensor first, at::Tensor second,
                    at::Tensor gradient) {
  const at::Tensor step = at::full({}, static_cast<double>(s.step), master.options());
  at::Tensor scaled = s.gradient_scale == 1.0 ? gradient : gradient * s.gradient_scale;
  at::_fused_adamw_(master, scaled, first, second, {}, step, s.lr, s.beta1, s.beta2, s.weight_decay, s.epsilon,
                    /*amsgrad=*/false, /*maximize=*/false);
}

}  // namespace

absl::StatusOr<GroupTable> ResolveGroups(const model::Graph& graph, const std::vector<BucketSpec>& buckets,
                                         const AdamWOptions& options) {
  VLM_RETURN_IF_ERROR(CheckOptions(options));
  std::vector<bool> trainable(graph.params.size(), false);
  for (const BucketSpec& bucket : buckets) {
    for (const ParamRange& range : bucket.ranges) trainable[range.param] = bucket.trainable;
  }
  VLM_ASSIGN_OR_RETURN(const std::vector<Setting> settings, SettingsOfParameters(graph, trainable, options));
  GroupTable table;
  table.group_of_param.assign(graph.params.size(), -1);
  table.ranges.resize(buckets.size());
  for (size_t param = 0; param < settings.size(); ++param) {
    if (!trainable[param]) continue;
    if (!settings[param].lr.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "trainable parameter without a learning rate; give its group one or freeze it: ", graph.params[param].name));
    }
    const ParameterGroup group{*settings[param].lr, settings[param].weight_decay};
    auto found = std::find(table.groups.begin(), table.groups.end(), group);
    table.group_of_param[param] = static_cast<int32_t>(found - table.groups.begin());
    if (found == table.groups.end()) table.groups.push_back(group);
  }
  for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    if (!buckets[bucket].trainable) continue;
    for (const ParamRange& range : buckets[bucket].ranges) {
      table.ranges[bucket].push_back(
          {range.offset, range.offset + range.end - range.begin, table.group_of_param[range.param]});
    }
  }
  return table;
}

std::string GroupTable::ToString(const model::Graph& graph) const {
  std::string text;
  for (size_t group = 0; group < groups.size(); ++group) {
    int64_t parameters = 0, elements = 0;
    for (size_t param = 0; param < group_of_param.size(); ++param) {
      if (group_of_param[param] != static_cast<int32_t>(group)) continue;
      ++parameters;
      elements += NumElements(graph.params[param].shape);
    }
    absl::StrAppend(&text, "group ", group, ": lr ", groups[group].lr, ", weight decay ", groups[group].weight_decay,
                    ", parameters ", parameters, ", elements ", elements, "\n");
  }
  return text;
}

void AdamWUpdate(const AdamWScalars& scalars, const at::Tensor& master, const at::Tensor& first_moment,
                 const at::Tensor& second_moment, const at::Tensor& gradient) {
  if (!master.is_cpu()) {
    UpdateOnDevice(scalars, master, first_moment, second_moment, gradient);
    return;
  }
  const Factors factors = MakeFactors(scalars);
  float* const p = master.mutable_data_ptr<float>();
  float* const m = first_moment.mutable_data_ptr<float>();
  float* const v = second_moment.mutable_data_ptr<float>();
  const float* const g = gradient.const_data_ptr<float>();
  model::ops::ParallelFor(master.numel(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    UpdateRange(factors, p + begin, m + begin, v + begin, {g + begin, static_cast<size_t>(end - begin)});
  });
}

absl::Status ApplyAdamW(const OptimizerStep& step, const std::vector<bool>& reached, ParameterStore* store) {
  at::NoGradGuard no_grad;
  for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
    if (!reached[id]) continue;
    const OptimizerShard shard = store->Shard(id);
    store->set_optimizer_steps(id, store->optimizer_steps(id) + 1);
    for (const GroupRange& range : step.groups->ranges[id]) {
      const int64_t begin = std::max(range.begin, shard.begin), end = std::min(range.end, shard.end);
      if (begin >= end) continue;
      const ParameterGroup& group = step.groups->groups[range.group];
      const AdamWScalars scalars{group.lr * step.lr_factor, group.weight_decay,   step.options.beta1,
                                 step.options.beta2,        step.options.epsilon, store->optimizer_steps(id),
                                 step.gradient_scale};
      const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, begin - shard.begin, end - begin); };
      AdamWUpdate(scalars, part(shard.master), part(shard.first_moment), part(shard.second_moment),
                  part(shard.gradient));
    }
    VLM_RETURN_IF_ERROR(store->Updated(id));
  }
  return absl::OkStatus();
}

}  // namespace vlm::train
