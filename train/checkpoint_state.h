// A training state as files: which tensors stand in which file, copied out of the store and back, for any number of
// ranks. Knows nothing of the files' encoding: tensors cross as byte spans (checkpoint_format writes them).
//
//   llm[-00001-of-0000N].safetensors      weights in the compute type, Hugging Face names
//   vision[-0000i-of-0000N].safetensors   weights of encoder and projector
//   model.safetensors.index.json          which file holds which weight
//   optimizer-0000i-of-0000N.safetensors  fp32 ranges of trainable parameters: "m/<begin>-<end>/<name>", "v/...", and
//                                         with bf16 compute "master/..."; elements in row-major order
//   optimizer.safetensors.index.json      which file holds which range
//   optimizer.json                        format version, compute type and the optimizer's step count per parameter
//
// Files are cut by size at borders that ignore the number of ranks and dealt whole, so every file is byte-equal for any
// number of ranks. Alignment gaps and padding are never saved.
#ifndef VLM_TRAIN_CHECKPOINT_STATE_H_
#define VLM_TRAIN_CHECKPOINT_STATE_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/llava.h"
#include "train/parameter_store.h"

namespace vlm::train {

inline constexpr std::string_view kWeightsIndex = "model.safetensors.index.json";
inline constexpr std::string_view kOptimizerIndex = "optimizer.safetensors.index.json";
inline constexpr std::string_view kOptimizerJson = "optimizer.json";
inline constexpr int kOptimizerFormat = 1;

struct StateOptions {
  int64_t file_bytes_max = int64_t{1} << 30;  // of tensor data; a single larger weight has a file of its own
  // Which weights file holds a parameter.
  std::function<model::WeightsFile(std::string_view)> file_of = model::FileOf;
};

struct PlannedTensor {
  enum class Kind { kWeight, kMaster, kFirstMoment, kSecondMoment } kind = Kind::kWeight;
  std::string name;   // in the file
  std::string dtype;  // safetensors': "F32", "BF16"
  std::vector<int64_t> shape;
  model::ParamId param = model::kNone;
  int64_t begin = 0, end = 0;  // elements of the parameter
  int64_t bytes() const;
};

struct PlannedFile {
  std::string name;
  std::vector<PlannedTensor> tensors;
  int64_t bytes = 0;
  bool frozen = false;  // every weight in it is frozen: equal in every step of the stage
  int rank = 0;         // who writes it
};

struct StatePlan {
  std::vector<PlannedFile> files;  // weights, then optimizer state
  int64_t bytes = 0;
};

// Pure. Files are dealt in order, each to the rank with the fewest bytes so far.
StatePlan PlanState(const ParameterStore& store, const StateOptions& options);

struct TensorImage {
  std::string name, dtype;
  std::vector<int64_t> shape;
  at::Tensor value;  // contiguous, on the CPU, of as many bytes as the shape says; nobody writes it
  std::span<const std::byte> bytes() const {  // little-endian, row-major
    return {static_cast<const std::byte*>(value.const_data_ptr()), value.nbytes()};
  }
};

// One file of this rank, copied out: training may go on. Either tensors or text.
struct FileImage {
  std::string name;
  std::vector<TensorImage> tensors;
  std::string text;
  bool is_text() const { return tensors.empty(); }
};

// Copies this rank's files out, but not those named in `present`; rank 0 also gets the JSON files. Collective: gathers
// stale parameters and, bucket by bucket, optimizer state. Call between steps, with the same plan on every rank. Errors
// of the collective.
absl::StatusOr<std::vector<FileImage>> SaveState(const StatePlan& plan, ParameterStore* store,
                                                 const std::set<std::string>& present = {});

// The tensors of a folder's safetensors files, for loading. Not thread-safe.
class TensorSource {
 public:
  struct Info {
    std::string name, dtype;
    std::vector<int64_t> shape;
  };
  virtual ~TensorSource() = default;
  virtual std::vector<Info> List() const = 0;  // names unique, best in the order in which they are stored
  // Fills `out` with the tensor's bytes from `offset`. NOT_FOUND, DATA_LOSS.
  virtual absl::Status Read(const std::string& name, uint64_t offset, std::span<std::byte> out) = 0;

  struct Request {
    std::string name;
    uint64_t offset = 0;
    std::span<std::byte> out;
  };
  // All of them, in any order. `shared`: other ranks read the same bytes at about the same time. Errors as Read.
  virtual absl::Status ReadAll(const std::vector<Request>& requests, bool shared);
};

struct WeightMapping {
  // A tensor's name in the source -> the parameter's name, or "" to leave it out. Absent: as it is.
  std::function<std::string(const std::string&)> rename;
  // Parameters that must be there, by SelectParameters patterns; empty: all.
  std::vector<std::string> required;
  bool surplus_is_error = true;  // a tensor that is no parameter
};

// Weights only: the start of a stage from another's artifact, or of evaluation. F32 and BF16 are converted to the
// compute type. INVALID_ARGUMENT naming the tensor: missing, surplus, twice, another shape or type.
absl::Status LoadWeights(const WeightMapping& mapping, TensorSource* weights, ParameterStore* store);

// The whole state, bit for bit, saved by any number of ranks with the same graph, trainable set and compute type. Not
// collective: every rank reads the weights and its part of the optimizer state. INVALID_ARGUMENT naming what is
// missing, surplus, twice or of another shape or type; errors of the sources.
absl::Status LoadState(TensorSource* weights, TensorSource* optimizer, std::string_view optimizer_json,
                       ParameterStore* store);

}  // namespace vlm::train

#endif  // VLM_TRAIN_CHECKPOINT_STATE_H_
