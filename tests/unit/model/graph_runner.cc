#include "tests/unit/model/graph_runner.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "base/random.h"
#include "model/init.h"
#include "model/llava.h"

namespace vlm::model::testing {
namespace {

constexpr int64_t kAlignment = 64;

int64_t Elements(const ParamSpec& spec) {
  int64_t count = 1;
  for (const int64_t size : spec.shape) count *= size;
  return count;
}

// One buffer for all parameters, in order of declaration.
std::vector<at::Tensor> FlatViews(const Graph& graph, at::ScalarType type) {
  std::vector<int64_t> offsets;
  int64_t next = 0;
  for (const ParamSpec& spec : graph.params) {
    offsets.push_back(next);
    next += (Elements(spec) + kAlignment - 1) / kAlignment * kAlignment;
  }
  const at::Tensor flat = at::zeros({next}, type);
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < graph.params.size(); ++i) {
    views.push_back(flat.narrow(0, offsets[i], Elements(graph.params[i])).view(graph.params[i].shape));
  }
  return views;
}

at::Tensor Uniform(std::vector<int64_t> shape, RngKey key) {
  at::Tensor result = at::empty(shape, at::kFloat);
  Rng rng(key);
  for (int64_t i = 0; i < result.numel(); ++i) result.mutable_data_ptr<float>()[i] = 2 * rng.Uniform() - 1;
  return result;
}

at::Tensor Longs(const std::vector<int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

// dL/d(logp, lse, mean) and a, b, c of L = sum_k w_k ((1 - s)(-logp) + s (lse - mean)).
struct Seeds {
  Values gradients;
  TokenCoefficients coefficients;
};
Seeds CrossEntropy(const MicroBatch& batch, double smoothing, int64_t vocabulary, at::ScalarType type) {
  const at::Tensor w = batch.target_weight_K.to(type);
  return {{-(1 - smoothing) * w, smoothing * w, -smoothing * w, {}},
          {-(1 - smoothing) * w, w, -smoothing * w / static_cast<double>(vocabulary)}};
}

}  // namespace

LlavaConfig SmallLlava() {
  LlavaConfig config;
  config.text = {.vocab_size = 97,
                 .hidden_size = 48,
                 .intermediate_size = 80,
                 .num_hidden_layers = 2,
                 .num_attention_heads = 4,
                 .num_key_value_heads = 1,
                 .head_dim = 10,
                 .rope_theta = 10000.0,
                 .tie_word_embeddings = true};
  config.vision = {.hidden_size = 24,
                   .intermediate_size = 40,
                   .num_hidden_layers = 2,
                   .num_attention_heads = 2,
                   .image_size = 12,
                   .patch_size = 4};
  config.image_token_index = 5;
  return config;
}

LlavaConfig WideLlava() {
  LlavaConfig config = SmallLlava();
  config.text.vocab_size = 1003;
  config.text.hidden_size = 256, config.text.intermediate_size = 704, config.text.head_dim = 0;
  config.text.num_attention_heads = 8, config.text.num_key_value_heads = 2;
  config.vision.hidden_size = 192, config.vision.intermediate_size = 768, config.vision.num_attention_heads = 3;
  config.vision.image_size = 32, config.vision.patch_size = 4;
  return config;
}

Params ParameterSet::Of(const Graph& graph, NodeId node) const {
  Params params;
  for (const ParamId id : graph.nodes[node].params) params.push_back(tensors[id]);
  return params;
}

ParameterSet RandomParameters(const Graph& graph, uint64_t seed, at::ScalarType type, Layout layout) {
  ParameterSet set = ZeroSlots(graph, type, layout);
  for (size_t i = 0; i < graph.params.size(); ++i) {
    const ParamSpec& spec = graph.params[i];
    at::Tensor value = Initialize(spec, seed);
    if (spec.decay == DecayClass::kNormOrBias)
      value = value + 0.3 * Uniform(spec.shape, RngKey{seed}.Derive(spec.name));
    if (spec.decay != DecayClass::kNormOrBias && ParameterGroup(spec.name) != "vision") value = value * 5;
    set.tensors[i].copy_(value);
  }
  return set;
}

ParameterSet ZeroSlots(const Graph& graph, at::ScalarType type, Layout layout) {
  if (layout == Layout::kFlat) return {FlatViews(graph, type)};
  ParameterSet set;
  for (const ParamSpec& spec : graph.params) set.tensors.push_back(at::zeros(spec.shape, type));
  return set;
}

MicroBatch RandomBatch(const LlavaConfig& config, const std::vector<DocumentShape>& documents, uint64_t seed,
                       Text text) {
  MicroBatch batch;
  Rng rng(RngKey{seed});
  std::vector<int64_t> ids, positions, rows, target_index, target_id;
  std::vector<float> weights;
  const int64_t patches = config.ImageTokens(), words = config.text.vocab_size - 1;
  int64_t word = 0;
  for (const DocumentShape& document : documents) {
    const int64_t begin = static_cast<int64_t>(ids.size()), image_tokens = document.images * patches;
    batch.document_starts.push_back(begin);
    for (int64_t i = 0; i < document.tokens; ++i) {
      const bool image = i < image_tokens;
      const bool follows = text == Text::kChained && i > image_tokens;
      if (!image) word = follows ? (7 * word + 5) % words : static_cast<int64_t>(rng.Below(words));
      // The image token stands for pictures only.
      const int64_t id = image ? config.image_token_index : word + (word >= config.image_token_index ? 1 : 0);
      ids.push_back(id);
      positions.push_back(i);
      if (image) rows.push_back(begin + i);
      if (i > 0 && !image) {
        target_index.push_back(begin + i - 1);
        target_id.push_back(id);
        weights.push_back(0.5f + static_cast<float>(rng.Uniform()));
      }
    }
    batch.counts.images += document.images;
  }
  batch.document_starts.push_back(static_cast<int64_t>(ids.size()));
  batch.ids_N = Longs(ids), batch.positions_N = Longs(positions);
  batch.target_index_K = Longs(target_index), batch.target_id_K = Longs(target_id);
  batch.target_weight_K = at::empty({static_cast<int64_t>(weights.size())}, at::kFloat);
  std::copy(weights.begin(), weights.end(), batch.target_weight_K.mutable_data_ptr<float>());
  batch.counts.tokens = static_cast<int64_t>(ids.size());
  batch.counts.documents = static_cast<int64_t>(documents.size());
  batch.counts.targets = static_cast<int64_t>(target_id.size());
  batch.counts.vision_tokens = static_cast<int64_t>(rows.size());
  if (batch.counts.images > 0) {
    batch.image_row_V = Longs(rows);
    batch.pixels = Uniform({batch.counts.images, 3, config.vision.image_size, config.vision.image_size},
                           RngKey{seed}.Derive("pixels"));
  }
  return batch;
}

PassResult RunPass(const Graph& graph, const ParameterSet& parameters, const MicroBatch& batch,
                   const PassOptions& options) {
  const c10::NoGradGuard no_grad;
  const at::ScalarType type = parameters.tensors[0].scalar_type();
  const at::ScalarType loss_type = type == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t vocabulary = graph.values[graph.FindValue("next_logits")].shape[1].index() == 0
                                 ? std::get<int64_t>(graph.values[graph.FindValue("next_logits")].shape[1])
                                 : 0;
  const Seeds seeds = CrossEntropy(batch, options.smoothing, vocabulary, loss_type);
  PassResult result;
  result.values.resize(graph.values.size());
  ParameterSet slots = ZeroSlots(graph, type, options.slots);  // the compute type, as the parameter store has them
  std::vector<bool> trainable(graph.params.size()), needs(graph.values.size(), false);
  for (size_t i = 0; i < graph.params.size(); ++i) {
    trainable[i] = options.frozen.count(std::string(ParameterGroup(graph.params[i].name))) == 0;
  }
  std::vector<std::unique_ptr<Tape>> tapes(graph.nodes.size());
  std::vector<UnitContext> contexts(graph.nodes.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.name == "vision.post") continue;  // nothing depends on it
    if (node.when == Presence::kIfImages && batch.counts.images == 0) continue;
    contexts[i].batch = &batch;
    if (options.known_coefficients) contexts[i].coefficients = &seeds.coefficients;
    Values in;
    std::vector<bool> node_trainable, node_needs;
    bool any = false;
    for (const ValueId id : node.in) {
      in.push_back(result.values[id]);
      node_needs.push_back(needs[id] && in.back().defined());
      any |= node_needs.back();
    }
    for (const ParamId id : node.params) {
      node_trainable.push_back(trainable[id]);
      any |= trainable[id];
    }
    const Save save = any ? options.save : Save::kNothing;
    tapes[i] = node.unit->Record(contexts[i], parameters.Of(graph, static_cast<NodeId>(i)), node_trainable, in,
                                 node_needs, save);
    for (size_t j = 0; j < node.out.size(); ++j) {
      result.values[node.out[j]] = tapes[i]->outputs()[j];
      needs[node.out[j]] = any && graph.values[node.out[j]].differentiable;
    }
    if (!any) tapes[i] = nullptr;
  }
  const at::Tensor logp = result.values[graph.results[0]], lse = result.values[graph.results[1]],
                   mean = result.values[graph.results[2]];
  const at::Tensor per_target = (1 - options.smoothing) * -logp.to(at::kDouble) +
                                options.smoothing * (lse.to(at::kDouble) - mean.to(at::kDouble));
  result.loss = (batch.target_weight_K.to(at::kDouble) * per_target).sum().item<double>();

  Values gradients(graph.values.size());
  for (size_t i = 0; i < graph.results.size(); ++i) gradients[graph.results[i]] = seeds.gradients[i];
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    if (tapes[i] == nullptr) continue;
    const Node& node = graph.nodes[i];
    Values out;
    for (const ValueId id : node.out) out.push_back(gradients[id]);
    GradSink sink;
    for (const ParamId id : node.params) sink.slots.push_back(trainable[id] ? slots.tensors[id] : at::Tensor());
    const Values in = tapes[i]->Backward(out, &sink);
    for (size_t j = 0; j < node.in.size(); ++j) {
      if (!in[j].defined()) continue;
      at::Tensor& sum = gradients[node.in[j]];
      sum = sum.defined() ? sum + in[j] : in[j];
    }
  }
  for (size_t i = 0; i < graph.params.size(); ++i) {
    result.gradients.push_back(trainable[i] ? slots.tensors[i] : at::Tensor());
  }
  return result;
}

}  // namespace vlm::model::testing
