// The safetensors container: header rules, checked on read and on write.
//
// Source of the rules: huggingface/safetensors, README.md and safetensors/src/tensor.rs. Layout: 8 bytes N
// (little-endian), N bytes of JSON, then the tensors' bytes, row-major, with no hole and no overlap up to the
// end of the file.
#ifndef VLM_CHECKPOINT_FORMAT_SAFETENSORS_H_
#define VLM_CHECKPOINT_FORMAT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::checkpoint {

// In the reference's order, which is the order of growing alignment that the writer sorts by.
enum class DType {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

std::string_view DTypeName(DType dtype);                    // "BF16"
std::optional<DType> DTypeFromName(std::string_view name);  // exact, upper case
uint64_t BitsOf(DType dtype);

constexpr uint64_t kSafetensorsHeaderBytesMax = 100'000'000;  // the reference reader's limit

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  // empty: a scalar; a zero anywhere: no elements
};

// Bytes of `tensor`; INVALID_ARGUMENT when the product overflows or a sub-byte type does not end on a byte.
absl::StatusOr<uint64_t> TensorBytes(const TensorSpec& tensor);

struct TensorEntry : TensorSpec {
  uint64_t begin = 0;  // offsets from the start of the data
  uint64_t end = 0;
  uint64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;  // "__metadata__"
  std::vector<TensorEntry> tensors;             // in the order of their bytes
  uint64_t data_begin = 0;                      // offset of the data in the file
  uint64_t data_bytes() const { return tensors.empty() ? 0 : tensors.back().end; }
};

// Reads N from the first 8 bytes of a file of `file_bytes`. INVALID_ARGUMENT when the file is shorter than its
// header, or the header longer than the limit.
absl::StatusOr<uint64_t> ParseHeaderLength(std::string_view first_bytes, uint64_t file_bytes);

// Checks every rule: UTF-8 JSON that begins with "{", no duplicate key at any level, no missing field,
// metadata of strings, known types, offsets that begin at 0, meet and end with the file, sizes that follow from
// the shapes. `json` is the N bytes after the length. INVALID_ARGUMENT names the tensor and the rule.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t file_bytes);

// Lays `tensors` out as the reference writer does (type descending, then name) and answers the header of that
// layout. INVALID_ARGUMENT for an empty, reserved or repeated name, a name or metadata that is not UTF-8, sizes
// that overflow, a header beyond the limit.
absl::StatusOr<SafetensorsHeader> PlanSafetensors(std::vector<TensorSpec> tensors,
                                                  std::map<std::string, std::string> metadata);

// The bytes before the data: length and JSON, padded with spaces to 8 bytes. Equal to the reference writer's.
std::string SerializeSafetensorsHeader(const SafetensorsHeader& header);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_SAFETENSORS_H_
