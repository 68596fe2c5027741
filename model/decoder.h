// Units of a Qwen2-style decoder (transformers, qwen2/modeling_qwen2.py). Parameter names are given by the builder
// as prefixes, because the same units stand in a text-only model and in a LLaVA.
#ifndef VLM_MODEL_DECODER_H_
#define VLM_MODEL_DECODER_H_

#include <memory>
#include <string>

#include "model/graph.h"
#include "model/llava_config.h"

namespace vlm::model {

// cos and sin for every token: "rotary" fp32 [2, tokens, E/2]; made once per micro-batch, read by every block.
std::unique_ptr<Unit> NewRotaryUnit(const TextConfig& config);

// ids -> `output` [tokens, D].
std::unique_ptr<Unit> NewEmbeddingUnit(const TextConfig& config, std::string weight_name, std::string output);

// x + attention(RMSNorm(x)), then y + down(silu(gate) * up) of RMSNorm(y). `prefix`: "model.layers.3."
std::unique_ptr<Unit> NewDecoderBlock(const TextConfig& config, std::string prefix, std::string input,
                                      std::string output);

// Final RMSNorm and head on target positions -> logp_K, lse_K, mean_logit_K (ops/token_loss.h). In kPrefill and
// kDecode these are absent and "next_logits" [documents, V] holds the logits of every document's last token. With
// UnitContext::coefficients the gradients are made in the forward pass. `head_name` may be the embedding's: tied.
std::unique_ptr<Unit> NewHeadUnit(const TextConfig& config, std::string norm_name, std::string head_name,
                                  std::string input);

}  // namespace vlm::model

#endif  // VLM_MODEL_DECODER_H_
