// A model as data: named parameters, named values, and nodes in topological order. No storage, no
// communication, no step; train/ owns those.
//
// Shape legend used across model/ and train/:
//   N tokens on the flat token axis of one micro-batch, K target positions, D hidden size, H query heads,
//   G key/value heads, E head size, F feed-forward size, V vision tokens written into the token axis,
//   I images, P patches per image, C vision hidden size, A position axes.
#ifndef VLM_MODEL_GRAPH_H_
#define VLM_MODEL_GRAPH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"

namespace vlm::model {

using ParamId = int32_t;
using ValueId = int32_t;
using NodeId = int32_t;
inline constexpr int32_t kNone = -1;

enum class Encoding { kCompute };  // stored in the compute type; fp32-only and NF4 enter with their first use
enum class DecayClass { kMatrix, kNormOrBias, kEmbedding };

// How a parameter is filled; its random stream is hash(seed, name), never construction order.
struct Init {
  enum class Kind { kZeros, kOnes, kNormal, kUniform } kind = Kind::kZeros;  // kUniform is centred on zero
  double standard_deviation = 0;
};

struct ParamSpec {
  std::string name;            // the Hugging Face key: freezing, groups, adapters and files go by it
  std::vector<int64_t> shape;  // logical: no padding, no shard, no packing
  Encoding encoding = Encoding::kCompute;
  Init init;
  DecayClass decay = DecayClass::kMatrix;
};

enum class Axis { kTokens, kTargets, kDocuments, kImages, kVisionTokens };
using Dim = std::variant<int64_t, Axis>;
enum class ScalarKind { kCompute, kFp32, kInt64 };

struct ValueSpec {
  std::string name;
  std::vector<Dim> shape;
  ScalarKind type = ScalarKind::kCompute;
  bool differentiable = true;
};

// Host-side sizes of one micro-batch; shapes are never read from the device.
struct Counts {
  int64_t tokens = 0, targets = 0, documents = 0, images = 0, vision_tokens = 0;
};

// One micro-batch; the same content for every world size. Undefined tensors where a count is zero.
struct MicroBatch {
  int64_t global_index = 0;  // m: fixes randomness and summation order
  Counts counts;
  at::Tensor ids_N;                      // int64
  at::Tensor positions_N;                // int64, from 0 in every document
  std::vector<int64_t> document_starts;  // host, ascending, first is 0, then N at the end: documents + 1 entries
  at::Tensor target_index_K;             // int64: position whose hidden state predicts the target
  at::Tensor target_id_K;                // int64
  at::Tensor target_weight_K;            // fp32
  at::Tensor pixels;                     // [I, 3, height, width], fp32, normalised
  at::Tensor image_row_V;                // int64: row of the token axis each vision token replaces
};

enum class Phase { kTrain, kPrefill, kDecode };

class LayerCache;  // keys and values of one attention layer; model/layer_cache.h

// a, b, c of dlogits_k = a_k * onehot(target_k) + b_k * softmax(logits_k) + c_k * 1, each fp32 [K]. What an
// objective that is linear in (logp, lse, mean_logit) knows before the forward. Cross-entropy with weights w
// and smoothing s over V entries: a = -(1 - s) w, b = w, c = -s w / V.
struct TokenCoefficients {
  at::Tensor a_K, b_K, c_K;
};

struct UnitContext {
  const MicroBatch* batch = nullptr;
  Phase phase = Phase::kTrain;
  LayerCache* cache = nullptr;  // kPrefill and kDecode only; owned by generation, one per node
  // Set: the head makes its gradients in the forward pass, and its Tape::Backward ignores grad_outputs (which may
  // then be undefined). Only the head reads it; it must live until Record returns.
  const TokenCoefficients* coefficients = nullptr;
};

// Tensors of one node's parameters, in Node::params order. Logical shapes; views into buckets.
using Params = std::vector<at::Tensor>;
// Tensors of one node's inputs or outputs, in Node::in or Node::out order. Undefined: absent (no images).
using Values = std::vector<at::Tensor>;

// What a unit declares about itself; used while building a graph.
struct Declaration {
  std::vector<ParamSpec> params;  // a name that exists already in the graph is the same parameter: tying
  std::vector<std::string> inputs;
  std::vector<ValueSpec> outputs;
};

// Where a node's parameter gradients go: one slot per entry of Node::params, undefined for a frozen parameter.
// Slots are fp32 or the compute type, logical shape, zeroed by the engine before the bucket's first use.
struct GradSink {
  std::vector<at::Tensor> slots;
};

enum class Save { kNothing, kGraph, kInputs };  // kInputs recomputes the node in backward

// Lives from forward to backward of one node and micro-batch. Not thread-safe.
class Tape {
 public:
  virtual ~Tape() = default;
  virtual const Values& outputs() const = 0;  // detached
  // Adds parameter gradients into the sink's slots and returns gradients of the inputs: undefined for inputs
  // that do not need one. `grad_outputs` entries may be undefined (no consumer needed it). Call once.
  virtual Values Backward(const Values& grad_outputs, GradSink* sink) = 0;
};

// Bytes that one node needs for one micro-batch on the CPU, gradients of everything taken as wanted.
struct Footprint {
  int64_t kept = 0;      // from Record with Save::kGraph to the end of Backward, beside inputs and outputs
  int64_t forward = 0;   // the most that Forward and Record hold beside inputs, outputs and `kept`
  int64_t backward = 0;  // the most that Backward holds beside `kept`, its results included; slots are the engine's
};

// One computation. Immutable after construction; thread-compatible.
class Unit {
 public:
  virtual ~Unit() = default;
  virtual Declaration Declare() const = 0;
  // Pure: no state, no random generator, no device read-back, no branch on tensor contents.
  // Never keeps a reference to a parameter.
  virtual Values Forward(const UnitContext& context, const Params& params, const Values& in) const = 0;
  // Forward that can be followed by Backward. `needs_grad[i]`: whether input i needs a gradient; a parameter
  // needs one where the sink of Backward will have a slot, told here by `trainable[i]`. The default runs
  // autograd over Forward on detached leaves; override for a hand-written backward. `context.batch` must live
  // as long as the tape. kNothing: no gradient may be asked for; Backward of its tape is a programmer's error.
  virtual std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params,
                                       const std::vector<bool>& trainable, const Values& in,
                                       const std::vector<bool>& needs_grad, Save save) const;
  // Of a micro-batch of such counts, with compute tensors of `element_bytes`. The default: nothing of note.
  virtual Footprint Needs(const Counts& counts, int64_t element_bytes) const;
};

enum class Presence { kAlways, kIfImages };  // decided from the step header, not per rank

// A node on which no wanted result depends (vision.post, blocks above the feature layer) exists for its parameters:
// a schedule leaves it out, its parameters have no gradient and the optimizer skips them, as torch does.
struct Node {
  std::string name;  // "llm.blocks.3": what the job file's block ranges resolve against
  std::unique_ptr<Unit> unit;
  std::vector<ParamId> params;
  std::vector<ValueId> in, out;
  Presence when = Presence::kAlways;
};

struct Graph {
  std::vector<ParamSpec> params;
  std::vector<ValueSpec> values;
  std::vector<Node> nodes;       // topological order
  std::vector<ValueId> results;  // what objectives read: logp_K, lse_K, mean_logit_K

  // Appends a node; inputs are looked up by value name. INVALID_ARGUMENT names the node and what is wrong
  // (unknown value, parameter redeclared with another shape, value declared twice).
  absl::Status Add(std::string name, std::unique_ptr<Unit> unit, Presence when = Presence::kAlways);
  ParamId FindParam(const std::string& name) const;  // kNone when absent
  ValueId FindValue(const std::string& name) const;
  std::string ToString() const;  // one line per node, for people and golden tests
};

}  // namespace vlm::model

#endif  // VLM_MODEL_GRAPH_H_
