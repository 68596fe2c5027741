#include "toy_model.h"

#include <ATen/ATen.h>

#include <memory>
#include <string>

#include "base/check.h"
#include "base/random.h"

namespace vlm::train {
namespace {

using model::Axis;
using model::DecayClass;
using model::Declaration;
using model::Params;
using model::Presence;
using model::UnitContext;
using model::Values;

model::ParamSpec Matrix(std::string name, int64_t rows, int64_t columns) {
  return {std::move(name), {rows, columns}, {}, {model::Init::Kind::kNormal, 0.3}, DecayClass::kMatrix};
}
model::ParamSpec Bias(std::string name, int64_t size) {
  return {std::move(name), {size}, {}, {model::Init::Kind::kNormal, 0.1}, DecayClass::kNormOrBias};
}
model::ValueSpec Hidden(std::string name, Axis axis, int64_t hidden) { return {std::move(name), {axis, hidden}}; }
model::ValueSpec PerTarget(std::string name) { return {std::move(name), {Axis::kTargets}, model::ScalarKind::kFp32}; }

class Embed final : public model::Unit {
 public:
  explicit Embed(const ToyOptions& o) : o_(o) {}
  Declaration Declare() const override {
    return {{Matrix("language_model.embed.weight", o_.vocabulary, o_.hidden)},
            {},
            {Hidden("embeddings", Axis::kTokens, o_.hidden)}};
  }
  Values Forward(const UnitContext& context, const Params& params, const Values&) const override {
    return {params[0].index_select(0, context.batch->ids_N)};
  }
  const ToyOptions o_;
};

// Mean colour of each picture, projected.
class VisionEmbed final : public model::Unit {
 public:
  explicit VisionEmbed(const ToyOptions& o) : o_(o) {}
  Declaration Declare() const override {
    return {{Matrix("vision_tower.embed.weight", o_.hidden, 3), Bias("vision_tower.embed.bias", o_.hidden)},
            {},
            {Hidden("image_hidden", Axis::kImages, o_.hidden)}};
  }
  Values Forward(const UnitContext& context, const Params& params, const Values&) const override {
    const at::Tensor mean_I3 = context.batch->pixels.mean({2, 3}).to(params[0].scalar_type());
    return {at::linear(mean_I3, params[0], params[1])};
  }
  const ToyOptions o_;
};

class Project final : public model::Unit {
 public:
  Project(const ToyOptions& o, std::string prefix, std::string in, std::string out)
      : o_(o), prefix_(std::move(prefix)), in_(std::move(in)), out_(std::move(out)) {}
  Declaration Declare() const override {
    return {{Matrix(prefix_ + ".weight", o_.hidden, o_.hidden), Bias(prefix_ + ".bias", o_.hidden)},
            {in_},
            {Hidden(out_, Axis::kImages, o_.hidden)}};
  }
  Values Forward(const UnitContext&, const Params& params, const Values& in) const override {
    return {at::linear(in[0].tanh(), params[0], params[1])};
  }
  const ToyOptions o_;
  const std::string prefix_, in_, out_;
};

class Merge final : public model::Unit {
 public:
  explicit Merge(const ToyOptions& o) : o_(o) {}
  Declaration Declare() const override {
    return {{}, {"embeddings", "image_features"}, {Hidden("llm.hidden.0", Axis::kTokens, o_.hidden)}};
  }
  Values Forward(const UnitContext& context, const Params&, const Values& in) const override {
    if (!in[1].defined()) return {in[0].clone()};
    return {in[0].index_copy(0, context.batch->image_row_V, in[1])};
  }
  const ToyOptions o_;
};

class Block final : public model::Unit {
 public:
  Block(const ToyOptions& o, int index) : o_(o), index_(index) {}
  Declaration Declare() const override {
    const std::string prefix = "language_model.layers." + std::to_string(index_);
    return {{Matrix(prefix + ".up.weight", 4 * o_.hidden, o_.hidden), Bias(prefix + ".up.bias", 4 * o_.hidden),
             Matrix(prefix + ".down.weight", o_.hidden, 4 * o_.hidden), Bias(prefix + ".norm.bias", o_.hidden)},
            {"llm.hidden." + std::to_string(index_)},
            {Hidden("llm.hidden." + std::to_string(index_ + 1), Axis::kTokens, o_.hidden)}};
  }
  Values Forward(const UnitContext&, const Params& params, const Values& in) const override {
    const at::Tensor mixed = in[0] + in[0].mean(0, /*keepdim=*/true);  // so that every row matters to every target
    return {in[0] + at::linear(at::linear(mixed, params[0], params[1]).tanh(), params[2], params[3])};
  }
  const ToyOptions o_;
  const int index_;
};

class Head final : public model::Unit {
 public:
  explicit Head(const ToyOptions& o) : o_(o) {}
  Declaration Declare() const override {
    return {{Matrix("language_model.embed.weight", o_.vocabulary, o_.hidden)},
            {"llm.hidden." + std::to_string(o_.blocks), "llm.hidden.0"},
            {PerTarget("logp_K"), PerTarget("lse_K"), PerTarget("mean_logit_K")}};
  }
  Values Forward(const UnitContext& context, const Params& params, const Values& in) const override {
    const at::Tensor hidden_KD = (in[0] + in[1] * 0.5).index_select(0, context.batch->target_index_K);
    const at::Tensor logits_KV = at::linear(hidden_KD, params[0]).to(at::kFloat);
    const at::Tensor lse_K = logits_KV.logsumexp(1);
    const at::Tensor target_K = logits_KV.gather(1, context.batch->target_id_K.unsqueeze(1)).squeeze(1);
    return {target_K - lse_K, lse_K, logits_KV.mean(1)};
  }
  const ToyOptions o_;
};

void MustAdd(model::Graph* graph, std::string name, std::unique_ptr<model::Unit> unit,
             Presence when = Presence::kAlways) {
  const absl::Status status = graph->Add(std::move(name), std::move(unit), when);
  VLM_CHECK(status.ok(), std::string(status.message()));
}

at::Tensor Integers(Rng* rng, int64_t count, int64_t below) {
  const at::Tensor values = at::empty({count}, at::kLong);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<int64_t>(rng->Below(static_cast<uint64_t>(below)));
  return values;
}

at::Tensor Normals(Rng* rng, std::vector<int64_t> shape, double deviation) {
  const at::Tensor values = at::empty(shape, at::kFloat);
  float* data = values.mutable_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) data[i] = static_cast<float>(deviation * rng->Normal());
  return values;
}

}  // namespace

model::Graph ToyGraph(const ToyOptions& o) {
  model::Graph graph;
  MustAdd(&graph, "vision.embed", std::make_unique<VisionEmbed>(o), Presence::kIfImages);
  MustAdd(&graph, "vision.post", std::make_unique<Project>(o, "vision_tower.post", "image_hidden", "image_pooled"),
          Presence::kIfImages);
  MustAdd(&graph, "connector",
          std::make_unique<Project>(o, "multi_modal_projector.linear", "image_hidden", "image_features"),
          Presence::kIfImages);
  MustAdd(&graph, "llm.embed", std::make_unique<Embed>(o));
  MustAdd(&graph, "merge", std::make_unique<Merge>(o));
  for (int i = 0; i < o.blocks; ++i) MustAdd(&graph, "llm.blocks." + std::to_string(i), std::make_unique<Block>(o, i));
  MustAdd(&graph, "llm.head", std::make_unique<Head>(o));
  graph.results = {graph.FindValue("logp_K"), graph.FindValue("lse_K"), graph.FindValue("mean_logit_K")};
  return graph;
}

model::MicroBatch ToyBatch(const ToyOptions& o, uint64_t step, int64_t m, int64_t images) {
  Rng rng(RngKey{77}.Derive(step).Derive(static_cast<uint64_t>(m)));
  model::MicroBatch batch;
  batch.global_index = m;
  const int64_t tokens = 8 + static_cast<int64_t>(rng.Below(5));
  batch.counts = {tokens, tokens - 3, 1, images, images};
  batch.ids_N = Integers(&rng, tokens, o.vocabulary);
  batch.positions_N = at::arange(tokens, at::kLong);
  batch.document_starts = {0, tokens};
  batch.target_index_K = at::arange(2, tokens - 1, at::kLong);
  batch.target_id_K = Integers(&rng, tokens - 3, o.vocabulary);
  batch.target_weight_K = at::ones({tokens - 3}, at::kFloat);
  batch.target_weight_K[0] = 0.5;
  if (images > 0) {
    batch.pixels = Normals(&rng, {images, 3, 4, 4}, 1.0);
    batch.image_row_V = at::arange(images, at::kLong);
  }
  return batch;
}

void InitializeToy(uint64_t seed, ParameterStore* store) {
  for (size_t param = 0; param < store->graph().params.size(); ++param) {
    const model::ParamSpec& spec = store->graph().params[param];
    Rng rng(RngKey{seed}.Derive(spec.name));
    const absl::Status status = store->WriteParameter(static_cast<model::ParamId>(param),
                                                      Normals(&rng, spec.shape, spec.init.standard_deviation));
    VLM_CHECK(status.ok(), std::string(status.message()));
  }
}

}  // namespace vlm::train
