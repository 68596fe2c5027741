// The supported models as graphs.
//
//   llm.embed -> merge -> llm.blocks.0 ... -> llm.head -> logp_K, lse_K, mean_logit_K
//   vision.embed -> vision.blocks.0 ... -> connector -> merge          (nodes present only with images)
//                                      \-> vision.post                 (parameters only: see LlavaConfig)
//
// Parameter names are the keys transformers 5.23 writes and reads. Values: "embeddings", "image_features",
// "vision.hidden.<j>", "llm.hidden.<i>" (input of block i), and the head's results. Inputs of the graph (ids,
// positions, pixels, targets) are read from UnitContext::batch.
#ifndef VLM_MODEL_LLAVA_H_
#define VLM_MODEL_LLAVA_H_

#include <string>
#include <string_view>

#include "base/status.h"
#include "model/graph.h"
#include "model/llava_config.h"

namespace vlm::model {

// INVALID_ARGUMENT from Validate. A text-only model has "model.*" keys and nodes "llm.*".
absl::StatusOr<Graph> BuildQwen2(const TextConfig& config);
// "language_model.model.*", "vision_tower.*", "multi_modal_projector.*" keys.
absl::StatusOr<Graph> BuildLlava(const LlavaConfig& config);

// The LLaVA key of a text-only model's key: a text stage's artifact is loaded into a LLaVA through this.
std::string TextNameInLlava(std::string_view text_name);

// "llm", "vision" or "connector": what the job file's groups name.
std::string_view ParameterGroup(std::string_view name);

// Which weights file of a step folder holds a parameter; the projector goes with the vision tower.
enum class WeightsFile { kLlm, kVision };
WeightsFile FileOf(std::string_view name);

// What a model takes. Without pictures the last two are 0.
struct BatchLimits {
  int64_t vocab_size = 0;
  int64_t image_tokens = 0;  // of each picture
  int64_t image_size = 0;    // height and width of each picture
};

// Checks what every unit assumes of a micro-batch, on the host: types and sizes of tensors against counts and limits,
// document starts ascending from 0 to N, ids inside the vocabulary, positions, targets and image rows inside the token
// axis, image rows distinct, weights finite (reads these from CPU tensors; call it where batches are made, not per step
// on a device). Pixels' values are not looked at. INVALID_ARGUMENT names the field.
absl::Status ValidateMicroBatch(const MicroBatch& batch, const BatchLimits& limits);

}  // namespace vlm::model

#endif  // VLM_MODEL_LLAVA_H_
