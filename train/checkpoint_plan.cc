#include "train/checkpoint_plan.h"

#include <algorithm>
#include <cstdio>

namespace vlm::train {
namespace {

using Kind = PlannedTensor::Kind;

std::string NumberedName(const std::string& stem, size_t index, size_t count, bool always) {
  if (count == 1 && !always) return stem + ".safetensors";
  char number[32];
  std::snprintf(number, sizeof(number), "-%05zu-of-%05zu", index + 1, count);
  return stem + number + ".safetensors";
}

// Collects tensors into files of at most `bytes_max`.
class Packer {
 public:
  explicit Packer(int64_t bytes_max) : bytes_max_(bytes_max) {}

  int64_t room() const { return files_.empty() ? 0 : bytes_max_ - files_.back().bytes; }
  void Open() { files_.emplace_back(); }
  void Append(PlannedTensor tensor) {
    files_.back().bytes += tensor.bytes();
    files_.back().tensors.push_back(std::move(tensor));
  }
  std::vector<PlannedFile> Name(const std::string& stem, bool always_numbered) && {
    for (size_t i = 0; i < files_.size(); ++i) {
      files_[i].name = NumberedName(stem, i, files_.size(), always_numbered);
    }
    return std::move(files_);
  }

 private:
  const int64_t bytes_max_;
  std::vector<PlannedFile> files_;
};

std::vector<PlannedFile> PlanWeights(const StateLayout& layout, const StateOptions& options, model::WeightsFile which,
                                     const std::string& stem) {
  Packer packer(options.file_bytes_max);
  const std::vector<model::ParamSpec>& params = layout.graph.params;
  std::vector<bool> optimized(params.size(), false);
  for (const BucketSpec& bucket : layout.buckets) {
    for (const ParamRange& range : bucket.ranges) optimized[static_cast<size_t>(range.param)] = bucket.optimized();
  }
  for (size_t i = 0; i < params.size(); ++i) {
    if (options.file_of(params[i].name) != which) continue;
    PlannedTensor tensor{Kind::kWeight,
                         params[i].name,
                         layout.compute == at::kFloat ? "F32" : "BF16",
                         params[i].shape,
                         static_cast<model::ParamId>(i),
                         0,
                         NumElements(params[i].shape)};
    if (tensor.bytes() > packer.room()) packer.Open();
    packer.Append(std::move(tensor));
  }
  std::vector<PlannedFile> files = std::move(packer).Name(stem, false);
  for (PlannedFile& file : files) {
    file.frozen = std::none_of(file.tensors.begin(), file.tensors.end(), [&](const PlannedTensor& tensor) {
      return optimized[static_cast<size_t>(tensor.param)];
    });
  }
  return files;
}

PlannedTensor StateRange(Kind kind, const char* prefix, const model::ParamSpec& spec, const ParamRange& range) {
  return {kind,
          std::string(prefix) + "/" + std::to_string(range.begin) + "-" + std::to_string(range.end) + "/" + spec.name,
          "F32",
          {range.end - range.begin},
          range.param,
          range.begin,
          range.end};
}

// Ranges of one parameter, cut where a file is full, at multiples of kBlockElements.
void PackOptimizerState(const StateLayout& layout, const ParamRange& whole, Packer* packer) {
  const model::ParamSpec& spec = layout.graph.params[whole.param];
  const bool has_master = HasSeparateMaster(layout.compute);
  const int64_t element_bytes = has_master ? 12 : 8;
  for (int64_t begin = whole.begin; begin < whole.end;) {
    int64_t count = packer->room() / element_bytes / kBlockElements * kBlockElements;
    const int64_t left = whole.end - begin;
    if (left * element_bytes <= packer->room()) count = left;
    if (count <= 0) {
      packer->Open();
      count = std::max(packer->room() / element_bytes / kBlockElements * kBlockElements, kBlockElements);
    }
    const ParamRange part{whole.param, begin, begin + std::min(count, left), 0};
    if (has_master) packer->Append(StateRange(Kind::kMaster, "master", spec, part));
    packer->Append(StateRange(Kind::kFirstMoment, "m", spec, part));
    packer->Append(StateRange(Kind::kSecondMoment, "v", spec, part));
    begin = part.end;
  }
}

std::vector<PlannedFile> PlanOptimizer(const StateLayout& layout, const StateOptions& options) {
  Packer packer(options.file_bytes_max);
  for (const BucketSpec& bucket : layout.buckets) {
    if (!bucket.optimized()) continue;
    for (const ParamRange& range : bucket.ranges) PackOptimizerState(layout, range, &packer);
  }
  return std::move(packer).Name("optimizer", true);
}

}  // namespace

int64_t PlannedTensor::bytes() const { return NumElements(shape) * (dtype == "BF16" ? 2 : 4); }

StatePlan PlanState(const StateLayout& layout, const StateOptions& options) {
  StatePlan plan;
  for (std::vector<PlannedFile> files :
       {PlanWeights(layout, options, model::WeightsFile::kLlm, "llm"),
        PlanWeights(layout, options, model::WeightsFile::kVision, "vision"), PlanOptimizer(layout, options)}) {
    std::move(files.begin(), files.end(), std::back_inserter(plan.files));
  }
  std::vector<int64_t> load(static_cast<size_t>(layout.world), 0);
  for (PlannedFile& file : plan.files) {
    file.rank = static_cast<int>(std::min_element(load.begin(), load.end()) - load.begin());
    load[static_cast<size_t>(file.rank)] += file.bytes;
    plan.bytes += file.bytes;
  }
  return plan;
}

StatePlan PlanState(const ParameterStore& store, const StateOptions& options) {
  return PlanState({store.graph(), store.buckets(), store.options().compute, store.world()}, options);
}

}  // namespace vlm::train
