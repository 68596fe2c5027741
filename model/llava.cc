#include "model/llava.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "model/decoder.h"
#include "model/vision.h"

namespace vlm::model {
namespace {

constexpr std::string_view kLlavaText = "language_model.";
constexpr std::string_view kVision = "vision_tower.";
constexpr std::string_view kProjector = "multi_modal_projector.";

bool StartsWith(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

// Rotary table, blocks and head over the value "llm.hidden.0". `prefix`: "" or "language_model."
absl::Status AddDecoder(const TextConfig& config, const std::string& prefix, Graph* graph) {
  VLM_RETURN_IF_ERROR(graph->Add("llm.rotary", NewRotaryUnit(config)));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string index = std::to_string(i);
    VLM_RETURN_IF_ERROR(graph->Add(
        "llm.blocks." + index, NewDecoderBlock(config, prefix + "model.layers." + index + ".", "llm.hidden." + index,
                                               "llm.hidden." + std::to_string(i + 1))));
  }
  const std::string head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  VLM_RETURN_IF_ERROR(graph->Add("llm.head", NewHeadUnit(config, prefix + "model.norm.weight", prefix + head,
                                                         "llm.hidden." + std::to_string(config.num_hidden_layers))));
  for (const char* name : {"logp_K", "lse_K", "mean_logit_K"}) graph->results.push_back(graph->FindValue(name));
  return absl::OkStatus();
}

// Everything up to "image_features".
absl::Status AddVision(const LlavaConfig& config, Graph* graph) {
  const VisionConfig& vision = config.vision;
  const std::string tower(kVision);
  const auto hidden = [](int64_t index) { return "vision.hidden." + std::to_string(index); };
  VLM_RETURN_IF_ERROR(
      graph->Add("vision.embed", NewPatchEmbeddingUnit(vision, tower + "embeddings.", hidden(0)), Presence::kIfImages));
  for (int64_t i = 0; i < vision.num_hidden_layers; ++i) {
    const std::string index = std::to_string(i);
    VLM_RETURN_IF_ERROR(
        graph->Add("vision.blocks." + index,
                   NewVisionBlock(vision, tower + "encoder.layers." + index + ".", hidden(i), hidden(i + 1)),
                   Presence::kIfImages));
  }
  VLM_RETURN_IF_ERROR(graph->Add("vision.post",
                                 NewVisionPostUnit(vision, tower + "post_layernorm.", hidden(vision.num_hidden_layers),
                                                   "vision.last_hidden_state"),
                                 Presence::kIfImages));
  const int64_t layer = config.vision_feature_layer;
  const int64_t feature = layer >= 0 ? layer : vision.num_hidden_layers + 1 + layer;
  return graph->Add("connector", NewProjectorUnit(config, std::string(kProjector), hidden(feature), "image_features"),
                    Presence::kIfImages);
}

absl::Status Bad(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError("micro-batch is inconsistent: " + what + "; field " + field);
}

absl::Status CheckIndices(const at::Tensor& index, int64_t count, int64_t limit, const char* field) {
  if (count == 0) return absl::OkStatus();
  if (!index.defined() || index.scalar_type() != at::kLong || index.dim() != 1 || index.size(0) != count) {
    return Bad(field, "expected int64 [" + std::to_string(count) + "]");
  }
  const int64_t least = index.min().item<int64_t>(), largest = index.max().item<int64_t>();
  if (least < 0 || largest >= limit) {
    return Bad(field, "values must be in [0, " + std::to_string(limit) + "), found " + std::to_string(least) + " to " +
                          std::to_string(largest));
  }
  return absl::OkStatus();
}

absl::Status CheckTargets(const MicroBatch& batch, int64_t vocab_size) {
  const Counts& counts = batch.counts;
  VLM_RETURN_IF_ERROR(CheckIndices(batch.target_index_K, counts.targets, counts.tokens, "target_index_K"));
  VLM_RETURN_IF_ERROR(CheckIndices(batch.target_id_K, counts.targets, vocab_size, "target_id_K"));
  if (counts.targets == 0) return absl::OkStatus();
  const at::Tensor& weight = batch.target_weight_K;
  if (!weight.defined() || weight.scalar_type() != at::kFloat || weight.dim() != 1 ||
      weight.size(0) != counts.targets || !weight.isfinite().all().item<bool>()) {
    return Bad("target_weight_K", "expected finite fp32 [" + std::to_string(counts.targets) + "]");
  }
  return absl::OkStatus();
}

absl::Status CheckImages(const MicroBatch& batch, const BatchLimits& limits) {
  const Counts& counts = batch.counts;
  if (counts.vision_tokens != counts.images * limits.image_tokens) {
    return Bad("counts.vision_tokens", "expected " + std::to_string(limits.image_tokens) + " for each of " +
                                           std::to_string(counts.images) + " images, found " +
                                           std::to_string(counts.vision_tokens));
  }
  VLM_RETURN_IF_ERROR(CheckIndices(batch.image_row_V, counts.vision_tokens, counts.tokens, "image_row_V"));
  if (counts.images == 0) return absl::OkStatus();
  const at::Tensor rows = std::get<0>(batch.image_row_V.sort());
  if (at::diff(rows).eq(0).any().item<bool>()) return Bad("image_row_V", "expected distinct rows");
  const at::Tensor& pixels = batch.pixels;
  const std::vector<int64_t> shape = {counts.images, 3, limits.image_size, limits.image_size};
  if (!pixels.defined() || pixels.scalar_type() != at::kFloat || pixels.sizes() != at::IntArrayRef(shape)) {
    const std::string side = std::to_string(limits.image_size);
    return Bad("pixels", "expected fp32 [" + std::to_string(counts.images) + ", 3, " + side + ", " + side + "]");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Graph> BuildQwen2(const TextConfig& config) {
  VLM_RETURN_IF_ERROR(Validate(config));
  Graph graph;
  VLM_RETURN_IF_ERROR(graph.Add("llm.embed", NewEmbeddingUnit(config, "model.embed_tokens.weight", "llm.hidden.0")));
  VLM_RETURN_IF_ERROR(AddDecoder(config, "", &graph));
  return graph;
}

absl::StatusOr<Graph> BuildLlava(const LlavaConfig& config) {
  VLM_RETURN_IF_ERROR(Validate(config));
  Graph graph;
  const std::string prefix(kLlavaText);
  VLM_RETURN_IF_ERROR(
      graph.Add("llm.embed", NewEmbeddingUnit(config.text, prefix + "model.embed_tokens.weight", "embeddings")));
  VLM_RETURN_IF_ERROR(AddVision(config, &graph));
  VLM_RETURN_IF_ERROR(graph.Add("merge", NewMergeUnit(config, "embeddings", "image_features", "llm.hidden.0")));
  VLM_RETURN_IF_ERROR(AddDecoder(config.text, prefix, &graph));
  return graph;
}

std::string TextNameInLlava(std::string_view text_name) { return std::string(kLlavaText) + std::string(text_name); }

std::string_view ParameterGroup(std::string_view name) {
  if (StartsWith(name, kVision)) return "vision";
  if (StartsWith(name, kProjector)) return "connector";
  return "llm";
}

WeightsFile FileOf(std::string_view name) {
  return ParameterGroup(name) == "llm" ? WeightsFile::kLlm : WeightsFile::kVision;
}

absl::Status ValidateMicroBatch(const MicroBatch& batch, const BatchLimits& limits) {
  const Counts& counts = batch.counts;
  if (counts.tokens <= 0) return Bad("counts.tokens", "there must be at least one token");
  VLM_RETURN_IF_ERROR(CheckIndices(batch.ids_N, counts.tokens, limits.vocab_size, "ids_N"));
  VLM_RETURN_IF_ERROR(CheckIndices(batch.positions_N, counts.tokens, counts.tokens, "positions_N"));
  const std::vector<int64_t>& starts = batch.document_starts;
  if (static_cast<int64_t>(starts.size()) != counts.documents + 1 || starts.front() != 0 ||
      starts.back() != counts.tokens ||
      std::adjacent_find(starts.begin(), starts.end(), std::greater_equal<>()) != starts.end()) {
    return Bad("document_starts", "expected documents + 1 ascending entries from 0 to the number of tokens");
  }
  VLM_RETURN_IF_ERROR(CheckTargets(batch, limits.vocab_size));
  return CheckImages(batch, limits);
}

}  // namespace vlm::model
