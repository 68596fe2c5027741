// A model folder opened for a benchmark: the same weights file that the peer opens, in a store of a single rank.
#ifndef VLM_TESTS_BENCH_BENCH_MODEL_H_
#define VLM_TESTS_BENCH_BENCH_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "model/graph.h"
#include "model/llava_config.h"
#include "train/communication_queue.h"
#include "train/parameter_store.h"
#include "train/training_step.h"

namespace vlm::bench {

// All tensors of one safetensors file, F32 or I64. INVALID_ARGUMENT names a tensor of another type; errors of the
// reader.
absl::StatusOr<std::map<std::string, at::Tensor>> ReadTensors(const std::string& path);

// A folder with config.json (a LLaVA or a Qwen2) and model.safetensors, fp32.
struct BenchModel {
  model::LlavaConfig config;  // of a Qwen2 `text` alone; its image token is kNoImageToken
  model::Graph graph;
  std::unique_ptr<train::Collective> collective;  // null when it is the caller's
  std::unique_ptr<train::CommunicationQueue> queue;
  std::unique_ptr<train::ParameterStore> store;
};

inline constexpr int64_t kNoImageToken = -1;

struct BenchStore {
  bool trainable = true;                    // else parameters only
  train::Collective* collective = nullptr;  // outlives the model; null: a single rank
  train::ZeroLevel zero = train::ZeroLevel::kZero2;
  bool overlap = false;  // the job file's default: ranks here fill the cores
};
// INVALID_ARGUMENT names a weight that the file lacks, or a model type that is neither.
absl::StatusOr<std::unique_ptr<BenchModel>> OpenBenchModel(const std::string& folder, const BenchStore& options);
inline absl::StatusOr<std::unique_ptr<BenchModel>> OpenBenchModel(const std::string& folder, bool trainable) {
  return OpenBenchModel(folder, BenchStore{.trainable = trainable});
}

// The same update as the peers': AdamW on everything, decay on matrices and embeddings only, norm clipped at 1.
train::TrainingOptions BenchTraining();

}  // namespace vlm::bench

#endif  // VLM_TESTS_BENCH_BENCH_MODEL_H_
