#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/format/json_text.h"
#include "train/checkpoint_state.h"
#include "train/selection.h"

namespace vlm::train {
namespace {

using StateKind = ParameterStore::StateKind;

constexpr int kOptimizerJsonDepthMax = 4;
// Of values on their way from files to the store, beside one that is larger.
constexpr uint64_t kBatchBytesMax = 64 << 20;

std::optional<at::ScalarType> TypeOf(std::string_view dtype) {
  if (dtype == "F32") return at::kFloat;
  if (dtype == "BF16") return at::kBFloat16;
  if (dtype == "F16") return at::kHalf;
  return std::nullopt;
}

absl::Status CheckShape(const TensorSource::Info& info, const std::vector<int64_t>& shape) {
  if (info.shape == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor of another shape than the model's parameter: ", info.name,
                                                 " is [", absl::StrJoin(info.shape, ", "), "], expected [",
                                                 absl::StrJoin(shape, ", "), "]"));
}

// Reads many values at a time, so that the source can overlap them and read each part of a file once.
class BatchedReads {
 public:
  BatchedReads(TensorSource* source, bool shared) : source_(source), shared_(shared) {}

  // Fills `place`, contiguous on the CPU, from `offset` of the tensor on; then calls `done`, which may be empty.
  void AddInPlace(const std::string& name, uint64_t offset, at::Tensor place, std::function<void()> done) {
    requests_.push_back({name, offset, {static_cast<std::byte*>(place.mutable_data_ptr()), place.nbytes()}});
    if (done) done_.push_back(std::move(done));
    values_.push_back(std::move(place));
  }

  // The same for a value that `done` takes elsewhere: such memory is bounded.
  absl::Status Add(const std::string& name, uint64_t offset, at::Tensor value, std::function<void()> done) {
    bytes_ += value.nbytes();
    AddInPlace(name, offset, std::move(value), std::move(done));
    return bytes_ < kBatchBytesMax ? absl::OkStatus() : Finish();
  }

  // Of what was added since the last time.
  absl::Status Finish() {
    VLM_RETURN_IF_ERROR(source_->ReadAll(requests_, shared_));
    for (const std::function<void()>& done : done_) done();
    requests_.clear();
    done_.clear();
    values_.clear();
    bytes_ = 0;
    return absl::OkStatus();
  }

 private:
  TensorSource* const source_;
  const bool shared_;
  std::vector<TensorSource::Request> requests_;
  std::vector<std::function<void()>> done_;
  std::vector<at::Tensor> values_;
  uint64_t bytes_ = 0;
};

absl::Status AddWeight(const TensorSource::Info& info, model::ParamId param, ParameterStore* store,
                       BatchedReads* reads) {
  const std::optional<at::ScalarType> type = TypeOf(info.dtype);
  if (!type.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor type cannot be loaded as a weight (F32, BF16 or F16 can): ", info.name, " is ", info.dtype));
  }
  VLM_ASSIGN_OR_RETURN(const ParameterStore::OwnedPart part, store->PartToLoad(param));
  const auto offset = static_cast<uint64_t>(part.begin) * c10::elementSize(*type);
  if (part.memory.is_cpu() && part.memory.scalar_type() == *type) {
    reads->AddInPlace(info.name, offset, part.memory,
                      [param, store, part] { store->PartLoaded(param, part, part.memory); });
    return absl::OkStatus();
  }
  const at::Tensor value = at::empty({part.end - part.begin}, at::TensorOptions().dtype(*type));
  return reads->Add(info.name, offset, value, [param, store, part, value] { store->PartLoaded(param, part, value); });
}

// A tensor of the optimizer's files: which range of which parameter's state it holds.
struct StatePiece {
  TensorSource::Info info;
  StateKind kind = StateKind::kFirstMoment;
  model::ParamId param = model::kNone;
  int64_t begin = 0, end = 0;
};

absl::StatusOr<StatePiece> ParsePiece(const TensorSource::Info& info, const ParameterStore& store) {
  const auto malformed = [&] {
    return absl::InvalidArgumentError(absl::StrCat("not a range of optimizer state: ", info.name));
  };
  const size_t first = info.name.find('/');
  const size_t second = first == std::string::npos ? first : info.name.find('/', first + 1);
  if (second == std::string::npos) return malformed();
  const std::string kind = info.name.substr(0, first), range = info.name.substr(first + 1, second - first - 1);
  const std::string name = info.name.substr(second + 1);
  StatePiece piece;
  piece.info = info;
  if (kind == "master") {
    piece.kind = StateKind::kMaster;
  } else if (kind == "m" || kind == "v") {
    piece.kind = kind == "m" ? StateKind::kFirstMoment : StateKind::kSecondMoment;
  } else {
    return malformed();
  }
  const size_t dash = range.find('-');
  if (dash == std::string::npos || !absl::SimpleAtoi(range.substr(0, dash), &piece.begin) ||
      !absl::SimpleAtoi(range.substr(dash + 1), &piece.end) || piece.begin < 0 || piece.begin >= piece.end) {
    return malformed();
  }
  piece.param = store.graph().FindParam(name);
  if (piece.param == model::kNone || !store.Optimized(store.BucketOf(piece.param)) ||
      (piece.kind == StateKind::kMaster && !store.has_separate_master())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "optimizer state of something that does not train here; resume with the same trainable set and precision: ",
        info.name));
  }
  if (info.dtype != "F32") {
    return absl::InvalidArgumentError(absl::StrCat("optimizer state must be F32: ", info.name, " is ", info.dtype));
  }
  VLM_RETURN_IF_ERROR(CheckShape(info, {piece.end - piece.begin}));
  return piece;
}

using PieceMap = std::map<std::pair<model::ParamId, StateKind>, std::vector<StatePiece>>;

// The pieces of each parameter and kind must follow each other from 0 to the parameter's end.
absl::Status CheckCoverage(const ParameterStore& store, PieceMap* pieces) {
  std::vector<StateKind> kinds = {StateKind::kFirstMoment, StateKind::kSecondMoment};
  if (store.has_separate_master()) kinds.push_back(StateKind::kMaster);
  for (size_t i = 0; i < store.graph().params.size(); ++i) {
    const auto param = static_cast<model::ParamId>(i);
    if (!store.Optimized(store.BucketOf(param))) continue;
    for (StateKind kind : kinds) {
      std::vector<StatePiece>& parts = (*pieces)[{param, kind}];
      std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
      int64_t covered = 0;
      for (const StatePiece& part : parts) {
        if (part.begin != covered) break;
        covered = part.end;
      }
      const int64_t numel = NumElements(store.graph().params[i].shape);
      if (covered != numel || parts.back().end != numel) {
        return absl::InvalidArgumentError(absl::StrCat("optimizer state is not whole or overlaps: parameter ",
                                                       store.graph().params[i].name, ", ",
                                                       kind == StateKind::kMaster        ? "master"
                                                       : kind == StateKind::kFirstMoment ? "m"
                                                                                         : "v",
                                                       " at element ", covered, " of ", numel));
      }
    }
  }
  return absl::OkStatus();
}

// The part of a piece that this rank's shard holds.
absl::Status AddPiece(const StatePiece& piece, int64_t offset, ParameterStore* store, BatchedReads* reads) {
  const BucketId bucket = store->BucketOf(piece.param);
  const OptimizerShard shard = store->Shard(bucket);
  const int64_t begin = std::max(offset + piece.begin, shard.begin), end = std::min(offset + piece.end, shard.end);
  if (begin >= end) return absl::OkStatus();
  const uint64_t from = static_cast<uint64_t>(begin - offset - piece.begin) * sizeof(float);
  const at::Tensor place = store->StateShard(bucket, piece.kind).narrow(0, begin - shard.begin, end - begin);
  if (place.is_cpu()) {
    reads->AddInPlace(piece.info.name, from, place, nullptr);
    return absl::OkStatus();
  }
  const at::Tensor values = at::empty({end - begin}, at::kFloat);
  return reads->Add(piece.info.name, from, values, [place, values] { place.copy_(values); });
}

absl::Status LoadOptimizerState(TensorSource* optimizer, ParameterStore* store) {
  PieceMap pieces;
  for (const TensorSource::Info& info : optimizer->List()) {
    VLM_ASSIGN_OR_RETURN(StatePiece piece, ParsePiece(info, *store));
    pieces[{piece.param, piece.kind}].push_back(std::move(piece));
  }
  VLM_RETURN_IF_ERROR(CheckCoverage(*store, &pieces));
  std::map<model::ParamId, int64_t> offsets;
  for (const BucketSpec& bucket : store->buckets()) {
    for (const ParamRange& range : bucket.ranges) offsets[range.param] = range.offset;
  }
  BatchedReads reads(optimizer, /*shared=*/false);
  for (const auto& [key, parts] : pieces) {
    for (const StatePiece& piece : parts) VLM_RETURN_IF_ERROR(AddPiece(piece, offsets[piece.param], store, &reads));
  }
  return reads.Finish();
}

absl::StatusOr<std::map<std::string, int64_t>> ParseOptimizerJson(std::string_view text, const ParameterStore& store) {
  VLM_ASSIGN_OR_RETURN(const nlohmann::json state, checkpoint::ParseStrictJson(text, kOptimizerJsonDepthMax));
  const auto steps = state.is_object() ? state.find("steps") : state.end();
  if (!state.is_object() || !state.contains("format") || state["format"] != kOptimizerFormat ||
      !state.contains("compute") || steps == state.end() || !steps->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("optimizer.json is not of format ", kOptimizerFormat));
  }
  const char* const compute = store.has_separate_master() ? "BF16" : "F32";
  if (state["compute"] != compute) {
    return absl::InvalidArgumentError(
        absl::StrCat("state was saved with another precision; resume with the same: saved ", state["compute"].dump(),
                     ", now ", compute));
  }
  std::map<std::string, int64_t> counts;
  for (const auto& [name, count] : steps->items()) {
    if (!count.is_number_unsigned()) {
      return absl::InvalidArgumentError(absl::StrCat("optimizer.json has no step count for ", name));
    }
    counts[name] = count.get<int64_t>();
  }
  return counts;
}

absl::Status LoadStepCounts(const std::map<std::string, int64_t>& counts, ParameterStore* store) {
  for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
    if (!store->Optimized(id)) continue;
    std::optional<int64_t> of_bucket;
    for (const ParamRange& range : store->buckets()[static_cast<size_t>(id)].ranges) {
      const std::string& name = store->graph().params[range.param].name;
      const auto found = counts.find(name);
      if (found == counts.end()) {
        return absl::InvalidArgumentError(absl::StrCat("optimizer.json has no step count for ", name));
      }
      if (of_bucket.has_value() && *of_bucket != found->second) {
        return absl::InvalidArgumentError(absl::StrCat("parameters of one bucket have different step counts: ", name,
                                                       " has ", found->second, ", others ", *of_bucket));
      }
      of_bucket = found->second;
    }
    store->set_optimizer_steps(id, of_bucket.value_or(0));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TensorSource::ReadAll(const std::vector<Request>& requests, bool /*shared*/) {
  for (const Request& request : requests) VLM_RETURN_IF_ERROR(Read(request.name, request.offset, request.out));
  return absl::OkStatus();
}

absl::Status LoadWeights(const WeightMapping& mapping, TensorSource* weights, ParameterStore* store) {
  at::NoGradGuard no_grad;
  std::set<model::ParamId> loaded;
  BatchedReads reads(weights, /*shared=*/store->world() > 1 && !ShardsState(store->options().zero));
  for (const TensorSource::Info& info : weights->List()) {
    const std::string name = mapping.rename ? mapping.rename(info.name) : info.name;
    if (name.empty()) continue;
    const model::ParamId param = store->graph().FindParam(name);
    if (param == model::kNone) {
      if (!mapping.surplus_is_error) continue;
      return absl::InvalidArgumentError(absl::StrCat("tensor that the model has no parameter for: ", info.name));
    }
    if (!loaded.insert(param).second) {
      return absl::InvalidArgumentError(absl::StrCat("parameter given twice: ", name, ", again by tensor ", info.name));
    }
    VLM_RETURN_IF_ERROR(CheckShape(info, store->graph().params[param].shape));
    VLM_RETURN_IF_ERROR(AddWeight(info, param, store, &reads));
  }
  VLM_RETURN_IF_ERROR(reads.Finish());
  VLM_ASSIGN_OR_RETURN(const std::vector<bool> required, SelectTrainable(store->graph(), mapping.required));
  for (size_t i = 0; i < required.size(); ++i) {
    if (required[i] && !loaded.contains(static_cast<model::ParamId>(i))) {
      return absl::InvalidArgumentError(
          absl::StrCat("weights lack a parameter of the model: ", store->graph().params[i].name));
    }
  }
  return absl::OkStatus();
}

absl::Status LoadState(TensorSource* weights, TensorSource* optimizer, std::string_view optimizer_json,
                       ParameterStore* store) {
  at::NoGradGuard no_grad;
  VLM_ASSIGN_OR_RETURN(const auto counts, ParseOptimizerJson(optimizer_json, *store));
  const std::string_view expected = store->has_separate_master() ? "BF16" : "F32";
  for (const TensorSource::Info& info : weights->List()) {
    if (info.dtype == expected) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "weight was saved in another type, so resuming would not be exact: ", info.name, " is ", info.dtype));
  }
  VLM_RETURN_IF_ERROR(LoadWeights(WeightMapping(), weights, store));
  VLM_RETURN_IF_ERROR(LoadOptimizerState(optimizer, store));
  return LoadStepCounts(counts, store);
}

}  // namespace vlm::train
