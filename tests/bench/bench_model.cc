#include "tests/bench/bench_model.h"

#include <ATen/ATen.h>

#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "checkpoint/format/safetensors_reader.h"
#include "model/llava.h"
#include "train/buckets.h"

namespace vlm::bench {
namespace {

constexpr uint64_t kConfigBytesMax = uint64_t{1} << 20;

absl::StatusOr<at::ScalarType> TypeOf(const checkpoint::TensorEntry& entry) {
  if (entry.dtype == checkpoint::DType::kF32) return at::kFloat;
  if (entry.dtype == checkpoint::DType::kI64) return at::kLong;
  return absl::InvalidArgumentError("tensor is neither F32 nor I64: " + entry.name);
}

absl::Status BuildGraph(const std::string& json, BenchModel* opened) {
  VLM_ASSIGN_OR_RETURN(const std::string type, model::ModelType(json));
  if (type == "llava") {
    VLM_ASSIGN_OR_RETURN(opened->config, model::ParseLlavaConfig(json));
    VLM_ASSIGN_OR_RETURN(opened->graph, model::BuildLlava(opened->config));
    return absl::OkStatus();
  }
  if (type != "qwen2") return absl::InvalidArgumentError("model type is neither llava nor qwen2: " + type);
  opened->config.image_token_index = kNoImageToken;
  VLM_ASSIGN_OR_RETURN(opened->config.text, model::ParseTextConfig(json));
  VLM_ASSIGN_OR_RETURN(opened->graph, model::BuildQwen2(opened->config.text));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::map<std::string, at::Tensor>> ReadTensors(const std::string& path) {
  VLM_ASSIGN_OR_RETURN(const auto reader,
                       checkpoint::SafetensorsReader::Open(PosixFileSystem(), path, {.require_sums = false}));
  std::map<std::string, at::Tensor> tensors;
  for (const checkpoint::TensorEntry& entry : reader->header().tensors) {
    VLM_ASSIGN_OR_RETURN(const at::ScalarType type, TypeOf(entry));
    at::Tensor tensor = at::empty(std::vector<int64_t>(entry.shape.begin(), entry.shape.end()), type);
    const std::span<std::byte> bytes(static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes());
    VLM_RETURN_IF_ERROR(reader->Read(entry, 0, bytes));
    tensors[entry.name] = std::move(tensor);
  }
  return tensors;
}

absl::StatusOr<std::unique_ptr<BenchModel>> OpenBenchModel(const std::string& folder, const BenchStore& options) {
  VLM_ASSIGN_OR_RETURN(const std::string json, ReadFile(PosixFileSystem(), folder + "/config.json", kConfigBytesMax));
  auto opened = std::make_unique<BenchModel>();
  VLM_RETURN_IF_ERROR(BuildGraph(json, opened.get()));
  if (options.collective == nullptr) opened->collective = train::NewSingleRankCollective();
  train::Collective* const collective = options.collective == nullptr ? opened->collective.get() : options.collective;
  opened->queue = std::make_unique<train::CommunicationQueue>(options.overlap, RealClock());
  const std::vector<bool> trained(opened->graph.params.size(), options.trainable);
  VLM_ASSIGN_OR_RETURN(
      opened->store,
      train::ParameterStore::Create(&opened->graph, train::PlanBuckets(opened->graph, trained, collective->world()),
                                    {.zero = options.zero}, collective, opened->queue.get()));
  VLM_ASSIGN_OR_RETURN(const auto weights, ReadTensors(folder + "/model.safetensors"));
  for (size_t i = 0; i < opened->graph.params.size(); ++i) {
    const auto weight = weights.find(opened->graph.params[i].name);
    if (weight == weights.end()) {
      return absl::InvalidArgumentError("the file lacks a weight: " + opened->graph.params[i].name);
    }
    VLM_RETURN_IF_ERROR(opened->store->WriteParameter(static_cast<model::ParamId>(i), weight->second));
  }
  return opened;
}

train::TrainingOptions BenchTraining() {
  train::TrainingOptions options;
  options.optimizer.lr = 1e-4;
  options.optimizer.weight_decay = 0.01;
  options.lr_schedule = {train::LrShape::kConstant, 0, 1, 1.0};
  options.clip_norm = 1.0;
  return options;
}

}  // namespace vlm::bench
