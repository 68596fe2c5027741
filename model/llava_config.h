// The shapes of the supported models, read from and written to Hugging Face `config.json`.
//
// transformers 5.23 is the reader to satisfy: a folder whose config.json comes from ToJson() opens as
// LlavaForConditionalGeneration or Qwen2ForCausalLM. Parsing is strict: a key that is not known, or a value this
// code does not compute (another activation, sliding windows, scaled rotary embedding) is INVALID_ARGUMENT naming
// the key, never ignored, because ignoring it would give another function of the same weights.
#ifndef VLM_MODEL_LLAVA_CONFIG_H_
#define VLM_MODEL_LLAVA_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::model {

// A Qwen2 decoder: GQA with biases on q, k, v and none on o; RMSNorm; half-split rotary embedding; SwiGLU.
struct TextConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // divides num_attention_heads
  int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads; even
  int64_t max_position_embeddings = 32768;
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  // For generation by other programs; not part of the mathematics here.
  std::optional<int64_t> bos_token_id, eos_token_id, pad_token_id;

  int64_t HeadSize() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }
  friend bool operator==(const TextConfig&, const TextConfig&) = default;
};

// A SigLIP encoder without its pooling head: patch convolution with bias, learned positions, no class token,
// pre-LayerNorm blocks, tanh GELU.
struct VisionConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;  // divides hidden_size
  int64_t image_size = 0;           // pixels per side
  int64_t patch_size = 0;           // divides image_size
  double layer_norm_eps = 1e-6;

  int64_t Patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  friend bool operator==(const VisionConfig&, const VisionConfig&) = default;
};

struct LlavaConfig {
  TextConfig text;
  VisionConfig vision;
  int64_t image_token_index = 0;
  // Which hidden state the projector reads, as transformers counts them: 0 is the patch embedding, j the output of
  // block j, negative from the end. transformers takes the last one BEFORE post_layernorm, so post_layernorm is in
  // the folder but not in the path. The select strategy is always "full": SigLIP has no class token to drop.
  int64_t vision_feature_layer = -1;

  int64_t ImageTokens() const { return vision.Patches(); }  // positions one image takes on the token axis
  friend bool operator==(const LlavaConfig&, const LlavaConfig&) = default;
};

// INVALID_ARGUMENT names the key and the rule (positive sizes, divisibility, ranges). The builders call these.
absl::Status Validate(const TextConfig& config);
absl::Status Validate(const VisionConfig& config);
absl::Status Validate(const LlavaConfig& config);

// Parse a whole config.json. INVALID_ARGUMENT: not JSON, a missing, unknown or unsupported key (named with its
// path, such as text_config.hidden_act). Both spellings of transformers 4 and 5 are read (torch_dtype and dtype,
// rope_theta and rope_parameters). The result is valid.
absl::StatusOr<TextConfig> ParseTextConfig(std::string_view json);
absl::StatusOr<LlavaConfig> ParseLlavaConfig(std::string_view json);
// "qwen2", "llava", or another model_type; for choosing the parser. INVALID_ARGUMENT when absent.
absl::StatusOr<std::string> ModelType(std::string_view config_json);

// config.json for a folder with weights of `dtype` ("float32" or "bfloat16"); keys in order, ends in a newline.
std::string ToJson(const TextConfig& config, std::string_view dtype);
std::string ToJson(const LlavaConfig& config, std::string_view dtype);

// Published sizes: "qwen2.5-0.5b", "qwen2.5-1.5b", "siglip-base-patch16-224". NOT_FOUND lists the known names.
absl::StatusOr<TextConfig> TextPreset(std::string_view name);
absl::StatusOr<VisionConfig> VisionPreset(std::string_view name);

}  // namespace vlm::model

#endif  // VLM_MODEL_LLAVA_CONFIG_H_
