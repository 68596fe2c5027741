#include "checkpoint/format/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/format/json_text.h"

namespace vlm::checkpoint {
namespace {

using nlohmann::json;

struct DTypeFacts {
  std::string_view name;
  uint64_t bits;
};

// In the order of the enum.
constexpr std::array<DTypeFacts, 22> kDTypes = {{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr uint64_t kLengthBytes = 8;
constexpr int kHeaderDepthMax = 4;  // header, tensor, shape; one to spare, so that a deeper value gets its own message

bool MultiplyOverflows(uint64_t a, uint64_t b) { return b != 0 && a > std::numeric_limits<uint64_t>::max() / b; }

absl::Status TensorError(const std::string& name, std::string_view rule) {
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors: ", absl::string_view(rule.data(), rule.size()), ": tensor \"", name, "\""));
}

absl::StatusOr<std::vector<uint64_t>> ParseNumbers(const json& value, const std::string& name, const char* rule) {
  if (!value.is_array()) return TensorError(name, rule);
  std::vector<uint64_t> numbers;
  for (const json& number : value) {
    if (!number.is_number_unsigned()) return TensorError(name, rule);
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

absl::StatusOr<TensorEntry> ParseTensor(const std::string& name, const json& value) {
  if (!value.is_object()) return TensorError(name, "a tensor's entry must be an object");
  for (const char* const field : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(field)) return TensorError(name, absl::StrCat("the entry lacks ", field));
  }
  TensorEntry tensor;
  tensor.name = name;
  const std::optional<DType> dtype =
      value["dtype"].is_string() ? DTypeFromName(value["dtype"].get_ref<const std::string&>()) : std::nullopt;
  if (!dtype.has_value()) return TensorError(name, absl::StrCat("unknown dtype ", value["dtype"].dump()));
  tensor.dtype = *dtype;
  VLM_ASSIGN_OR_RETURN(tensor.shape, ParseNumbers(value["shape"], name, "shape must be a list of numbers from 0 on"));
  VLM_ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets,
                       ParseNumbers(value["data_offsets"], name, "data_offsets must be two numbers from 0 on"));
  if (offsets.size() != 2) return TensorError(name, "data_offsets must be two numbers from 0 on");
  tensor.begin = offsets[0];
  tensor.end = offsets[1];
  if (tensor.end < tensor.begin) return TensorError(name, "data_offsets must not end before they begin");
  VLM_ASSIGN_OR_RETURN(const uint64_t bytes, TensorBytes(tensor));
  if (bytes != tensor.bytes()) {
    return TensorError(name,
                       absl::StrCat("data_offsets span ", tensor.bytes(), " bytes, shape and dtype need ", bytes));
  }
  return tensor;
}

absl::StatusOr<std::map<std::string, std::string>> ParseMetadata(const json& value) {
  const auto error = absl::InvalidArgumentError("safetensors: __metadata__ must map strings to strings");
  if (!value.is_object()) return error;
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return error;
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// Sorted by offsets, the tensors must cover the data without hole and overlap.
absl::Status CheckCover(const std::vector<TensorEntry>& tensors, uint64_t data_bytes) {
  uint64_t end = 0;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin > end)
      return TensorError(tensor.name, absl::StrCat("hole in the data before byte ", tensor.begin));
    if (tensor.begin < end) return TensorError(tensor.name, absl::StrCat("overlap in the data at byte ", tensor.begin));
    end = tensor.end;
  }
  if (end != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: the tensors end at byte ", end, " of the data, the file at ", data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view DTypeName(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

std::optional<DType> DTypeFromName(std::string_view name) {
  for (size_t i = 0; i < kDTypes.size(); ++i) {
    if (kDTypes[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

uint64_t BitsOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].bits; }

absl::StatusOr<uint64_t> TensorBytes(const TensorSpec& tensor) {
  uint64_t elements = 1;
  for (const uint64_t size : tensor.shape) {
    if (MultiplyOverflows(elements, size)) return TensorError(tensor.name, "the shape's product overflows 64 bits");
    elements *= size;
  }
  if (MultiplyOverflows(elements, BitsOf(tensor.dtype))) {
    return TensorError(tensor.name, "the size in bits overflows 64 bits");
  }
  const uint64_t bits = elements * BitsOf(tensor.dtype);
  if (bits % 8 != 0) return TensorError(tensor.name, "a sub-byte tensor must end on a byte");
  return bits / 8;
}

absl::StatusOr<uint64_t> ParseHeaderLength(std::string_view first_bytes, uint64_t file_bytes) {
  if (file_bytes < kLengthBytes || first_bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: file is too short for a header: ", file_bytes, " bytes"));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{static_cast<uint8_t>(first_bytes[i])} << (8 * i);
  if (length > kSafetensorsHeaderBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: header is longer than the limit of ",
                                                   kSafetensorsHeaderBytesMax, " bytes: ", length));
  }
  if (length > file_bytes - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: header of ", length, " bytes does not fit the file of ", file_bytes));
  }
  return length;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text, uint64_t file_bytes) {
  if (text.empty() || text.front() != '{') return absl::InvalidArgumentError("safetensors: header must begin with {");
  if (file_bytes < kLengthBytes + text.size()) {
    return absl::InvalidArgumentError("safetensors: header does not fit the file");
  }
  absl::StatusOr<json> parsed = ParseStrictJson(text, kHeaderDepthMax);
  if (!parsed.ok()) return Annotate(parsed.status(), "safetensors: header");
  if (!parsed->is_object()) return absl::InvalidArgumentError("safetensors: header must be an object");
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + text.size();
  for (const auto& [name, value] : parsed->items()) {
    if (name == kMetadataKey) {
      VLM_ASSIGN_OR_RETURN(header.metadata, ParseMetadata(value));
    } else {
      VLM_ASSIGN_OR_RETURN(TensorEntry tensor, ParseTensor(name, value));
      header.tensors.push_back(std::move(tensor));
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  VLM_RETURN_IF_ERROR(CheckCover(header.tensors, file_bytes - header.data_begin));
  return header;
}

absl::StatusOr<SafetensorsHeader> PlanSafetensors(std::vector<TensorSpec> tensors,
                                                  std::map<std::string, std::string> metadata) {
  for (const auto& [key, text] : metadata) {
    if (!IsUtf8(key) || !IsUtf8(text)) return absl::InvalidArgumentError("safetensors: metadata must be UTF-8");
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  SafetensorsHeader header;
  header.metadata = std::move(metadata);
  std::set<std::string> names;
  uint64_t end = 0;
  for (TensorSpec& spec : tensors) {
    if (spec.name.empty() || spec.name == kMetadataKey || !IsUtf8(spec.name)) {
      return TensorError(spec.name, "a name must be UTF-8, not empty and not __metadata__");
    }
    if (!names.insert(spec.name).second) return TensorError(spec.name, "a name must be unique");
    VLM_ASSIGN_OR_RETURN(const uint64_t bytes, TensorBytes(spec));
    if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - end) {
      return TensorError(spec.name, "the data's size overflows");
    }
    TensorEntry entry;
    static_cast<TensorSpec&>(entry) = std::move(spec);
    entry.begin = end;
    entry.end = end += bytes;
    header.tensors.push_back(std::move(entry));
  }
  header.data_begin = SerializeSafetensorsHeader(header).size();
  if (header.data_begin - kLengthBytes > kSafetensorsHeaderBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: header of ", header.data_begin,
                                                   " bytes is beyond the limit", "; cut the tensors into more files"));
  }
  return header;
}

std::string SerializeSafetensorsHeader(const SafetensorsHeader& header) {
  std::string text = "{";
  if (!header.metadata.empty()) absl::StrAppend(&text, "\"__metadata__\":", json(header.metadata).dump());
  for (const TensorEntry& tensor : header.tensors) {
    const std::string_view dtype = DTypeName(tensor.dtype);
    absl::StrAppend(&text, text.size() > 1 ? "," : "", json(tensor.name).dump(), ":{\"dtype\":\"",
                    absl::string_view(dtype.data(), dtype.size()), "\",\"shape\":", json(tensor.shape).dump(),
                    ",\"data_offsets\":[", tensor.begin, ",", tensor.end, "]}");
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string bytes;
  for (size_t i = 0; i < kLengthBytes; ++i) bytes += static_cast<char>(text.size() >> (8 * i) & 0xff);
  return bytes + text;
}

}  // namespace vlm::checkpoint
