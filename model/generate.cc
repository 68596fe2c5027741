#include "model/generate.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "model/device_batch.h"
#include "model/layer_cache.h"

namespace vlm::model {
namespace {

at::Tensor IndexTensor(const std::vector<int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

// Nodes on which `wanted` depends.
std::vector<bool> LiveNodes(const Graph& graph, const std::vector<ValueId>& wanted) {
  std::vector<bool> needed(graph.values.size(), false), live(graph.nodes.size(), false);
  for (const ValueId id : wanted) needed[id] = true;
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    live[i] = std::any_of(node.out.begin(), node.out.end(), [&](ValueId id) { return needed[id]; });
    if (!live[i]) continue;
    for (const ValueId id : node.in) needed[id] = true;
  }
  return live;
}

// The longest answer of a prompt.
int64_t TokensLeft(const Prompt& prompt, const GenerateOptions& options) {
  if (options.context_max == 0) return options.max_new_tokens;
  return std::min(options.max_new_tokens, options.context_max - static_cast<int64_t>(prompt.ids.size()));
}

absl::Status CheckPrompt(const Prompt& prompt, size_t index, const GenerateOptions& options) {
  const std::string which = "; prompt " + std::to_string(index);
  if (prompt.ids.empty()) return absl::InvalidArgumentError("cannot generate from an empty prompt" + which);
  if (prompt.pixels.defined() == prompt.image_rows.empty()) {
    return absl::InvalidArgumentError("a prompt's pictures and image positions must come together" + which);
  }
  const int64_t tokens = static_cast<int64_t>(prompt.ids.size());
  if (TokensLeft(prompt, options) <= 0) {
    return absl::InvalidArgumentError("a prompt fills the context, no answer fits" + which + ", tokens " +
                                      std::to_string(tokens) + " of " + std::to_string(options.context_max));
  }
  for (const int64_t row : prompt.image_rows) {
    if (row < 0 || row >= tokens) {
      return absl::InvalidArgumentError("an image position lies outside the prompt" + which + ", position " +
                                        std::to_string(row));
    }
  }
  if (prompt.pixels.defined() && tokens > 0 &&
      static_cast<int64_t>(prompt.image_rows.size()) % prompt.pixels.size(0) != 0) {
    return absl::InvalidArgumentError("image positions do not divide among the prompt's pictures" + which);
  }
  return absl::OkStatus();
}

// All prompts of a group as one micro-batch of documents.
MicroBatch PrefillBatch(const std::vector<const Prompt*>& prompts) {
  MicroBatch batch;
  std::vector<int64_t> ids, positions, rows;
  std::vector<at::Tensor> pixels;
  for (const Prompt* prompt : prompts) {
    const int64_t begin = static_cast<int64_t>(ids.size());
    batch.document_starts.push_back(begin);
    ids.insert(ids.end(), prompt->ids.begin(), prompt->ids.end());
    for (size_t i = 0; i < prompt->ids.size(); ++i) positions.push_back(static_cast<int64_t>(i));
    for (const int64_t row : prompt->image_rows) rows.push_back(begin + row);
    if (prompt->pixels.defined()) pixels.push_back(prompt->pixels);
  }
  batch.document_starts.push_back(static_cast<int64_t>(ids.size()));
  batch.ids_N = IndexTensor(ids);
  batch.positions_N = IndexTensor(positions);
  if (!pixels.empty()) {
    batch.pixels = at::cat(pixels, 0);
    batch.image_row_V = IndexTensor(rows);
    batch.counts.images = batch.pixels.size(0);
  }
  batch.counts.tokens = static_cast<int64_t>(ids.size());
  batch.counts.documents = static_cast<int64_t>(prompts.size());
  batch.counts.vision_tokens = static_cast<int64_t>(rows.size());
  return batch;
}

// One token for each document that still runs.
MicroBatch DecodeBatch(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions) {
  MicroBatch batch;
  batch.ids_N = IndexTensor(ids);
  batch.positions_N = IndexTensor(positions);
  batch.document_starts.resize(ids.size() + 1);
  std::iota(batch.document_starts.begin(), batch.document_starts.end(), int64_t{0});
  batch.counts.tokens = batch.counts.documents = static_cast<int64_t>(ids.size());
  return batch;
}

// Prompts decoded together: prefill once, then one token per running document and step.
class Group {
 public:
  Group(const Graph& graph, const NodeParams& params, std::vector<const Prompt*> prompts,
        const GenerateOptions& options)
      : graph_(graph),
        params_(params),
        prompts_(std::move(prompts)),
        options_(options),
        logits_(graph.FindValue("next_logits")),
        answers_(prompts_.size()) {
    int64_t longest = 0;  // with its answer
    for (const Prompt* prompt : prompts_) {
      longest = std::max(longest, static_cast<int64_t>(prompt->ids.size()) + TokensLeft(*prompt, options));
    }
    for (const Node& node : graph.nodes) {
      const bool attends = node.name.rfind("llm.blocks.", 0) == 0;
      caches_.push_back(attends ? std::make_unique<LayerCache>(static_cast<int64_t>(prompts_.size()), longest)
                                : nullptr);
      cache_pointers_.push_back(caches_.back().get());
    }
  }

  std::vector<std::vector<int64_t>> Run() {
    std::vector<int64_t> running(prompts_.size());
    std::iota(running.begin(), running.end(), int64_t{0});
    std::vector<int64_t> tokens = Step(PrefillBatch(prompts_), Phase::kPrefill, running);
    while (true) {
      std::vector<int64_t> next_running, ids, positions;
      for (size_t i = 0; i < running.size(); ++i) {
        const int64_t row = running[i];
        if (std::count(options_.stop_ids.begin(), options_.stop_ids.end(), tokens[i]) > 0) continue;
        answers_[row].push_back(tokens[i]);
        if (static_cast<int64_t>(answers_[row].size()) == TokensLeft(*prompts_[row], options_)) continue;
        positions.push_back(static_cast<int64_t>(prompts_[row]->ids.size() + answers_[row].size()) - 1);
        next_running.push_back(row);
        ids.push_back(tokens[i]);
      }
      running = std::move(next_running);
      if (running.empty()) break;
      tokens = Step(DecodeBatch(ids, positions), Phase::kDecode, running);
    }
    return std::move(answers_);
  }

 private:
  // The largest logit's id for every document of the batch.
  std::vector<int64_t> Step(const MicroBatch& batch, Phase phase, const std::vector<int64_t>& rows) {
    for (const auto& cache : caches_) {
      if (cache != nullptr) cache->SetDocumentRows(rows);
    }
    const MicroBatch moved = MoveTo(batch, params_(0)[0].device());
    const Values values = ForwardGraph(graph_, params_, moved, phase, cache_pointers_, {logits_});
    if (options_.advance) options_.advance();
    const at::Tensor logits = values[logits_].to(at::kCPU).contiguous();
    const int64_t width = logits.size(1);
    const float* data = logits.const_data_ptr<float>();
    std::vector<int64_t> best;
    for (int64_t row = 0; row < logits.size(0); ++row) {
      best.push_back(std::max_element(data + row * width, data + (row + 1) * width) - (data + row * width));
    }
    return best;
  }

  const Graph& graph_;
  const NodeParams& params_;
  std::vector<const Prompt*> prompts_;
  const GenerateOptions& options_;
  ValueId logits_;
  std::vector<std::vector<int64_t>> answers_;
  std::vector<std::unique_ptr<LayerCache>> caches_;  // per node; null where the node has none
  std::vector<LayerCache*> cache_pointers_;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<int64_t>>> GreedyGenerate(const Graph& graph, const NodeParams& params,
                                                                 const std::vector<Prompt>& prompts,
                                                                 const GenerateOptions& options) {
  if (options.max_new_tokens <= 0 || options.batch_prompts <= 0) {
    return absl::InvalidArgumentError("max_new_tokens and batch_prompts must be above 0");
  }
  for (size_t i = 0; i < prompts.size(); ++i) VLM_RETURN_IF_ERROR(CheckPrompt(prompts[i], i, options));
  std::vector<Params> views;
  for (size_t node = 0; node < graph.nodes.size(); ++node) views.push_back(params(static_cast<NodeId>(node)));
  const NodeParams cached = [&views](NodeId node) { return views[node]; };
  std::vector<std::vector<int64_t>> answers;
  for (size_t begin = 0; begin < prompts.size(); begin += static_cast<size_t>(options.batch_prompts)) {
    const size_t end = std::min(prompts.size(), begin + static_cast<size_t>(options.batch_prompts));
    std::vector<const Prompt*> group;
    for (size_t i = begin; i < end; ++i) group.push_back(&prompts[i]);
    for (auto& answer : Group(graph, cached, std::move(group), options).Run()) answers.push_back(std::move(answer));
  }
  return answers;
}

Values ForwardGraph(const Graph& graph, const NodeParams& params, const MicroBatch& batch, Phase phase,
                    const std::vector<LayerCache*>& caches, const std::vector<ValueId>& wanted) {
  const c10::NoGradGuard no_grad;
  const std::vector<bool> live = LiveNodes(graph, wanted);
  Values values(graph.values.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (!live[i] || (node.when == Presence::kIfImages && batch.counts.images == 0)) continue;
    UnitContext context;
    context.batch = &batch;
    context.phase = phase;
    context.cache = caches.empty() ? nullptr : caches[i];
    Values in;
    for (const ValueId id : node.in) in.push_back(values[id]);
    const Values out = node.unit->Forward(context, params(static_cast<NodeId>(i)), in);
    VLM_CHECK(out.size() == node.out.size(), "a unit returned another number of values than it declared");
    for (size_t j = 0; j < out.size(); ++j) values[node.out[j]] = out[j];
  }
  return values;
}

}  // namespace vlm::model
