// Units of a SigLIP-style picture encoder, the projector, and the merge into the token axis (transformers,
// siglip/modeling_siglip.py and llava/modeling_llava.py). Hidden states are [images * patches, C]: rows of a picture
// follow each other, pictures in order.
#ifndef VLM_MODEL_VISION_H_
#define VLM_MODEL_VISION_H_

#include <memory>
#include <string>

#include "model/graph.h"
#include "model/llava_config.h"

namespace vlm::model {

// pixels -> patch convolution with bias + learned positions. `prefix`: "vision_tower.embeddings."
std::unique_ptr<Unit> NewPatchEmbeddingUnit(const VisionConfig& config, std::string prefix, std::string output);

// x + attention(LayerNorm(x)), then y + fc2(gelu_tanh(fc1(LayerNorm(y)))). `prefix`: "vision_tower.encoder.layers.3."
std::unique_ptr<Unit> NewVisionBlock(const VisionConfig& config, std::string prefix, std::string input,
                                     std::string output);

// LayerNorm of the last hidden state. `prefix`: "vision_tower.post_layernorm."
std::unique_ptr<Unit> NewVisionPostUnit(const VisionConfig& config, std::string prefix, std::string input,
                                        std::string output);

// linear_2(gelu_erf(linear_1(x))): C -> D. `prefix`: "multi_modal_projector."
std::unique_ptr<Unit> NewProjectorUnit(const LlavaConfig& config, std::string prefix, std::string input,
                                       std::string output);

// Token embeddings with rows image_row_V replaced by picture features; without pictures, the embeddings as they are.
std::unique_ptr<Unit> NewMergeUnit(const LlavaConfig& config, std::string embeddings, std::string features,
                                   std::string output);

}  // namespace vlm::model

#endif  // VLM_MODEL_VISION_H_
