// A safetensors file or folder, opened and read whole. The first byte says what the rest is: a file as it is, edits to
// a good header, or edits to a good index beside two good files.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/simulated_file_system.h"
#include "checkpoint/format/safetensors.h"
#include "checkpoint/format/safetensors_folder.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/json_editor.h"
#include "tests/fuzz/memory_file.h"

namespace vlm::checkpoint {
namespace {

using fuzz::FuzzInput;
using nlohmann::json;

constexpr char kFolder[] = "/model";

std::string WithLength(const std::string& header, size_t data_bytes) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i));
  return bytes + header + std::string(data_bytes, 'w');
}

json Tensor(const std::string& dtype, std::vector<uint64_t> shape, uint64_t begin, uint64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

json Header() {
  return {{"__metadata__", {{"format", "pt"}}},
          {"a.weight", Tensor("F32", {2, 3}, 0, 24)},
          {"b.bias", Tensor("BF16", {4}, 24, 32)},
          {"empty", Tensor("U8", {0, 7}, 32, 32)},
          {"scalar", Tensor("I64", {}, 32, 40)}};
}

std::string GoodFile(const std::string& tensor) {
  return WithLength(json({{tensor, Tensor("F32", {2}, 0, 8)}}).dump(), 8);
}

// Every byte of every tensor; and a header that was accepted can be written, and is accepted again.
void ReadAll(const SafetensorsFolder& folder) {
  for (const auto& [name, location] : folder.tensors()) {
    const absl::StatusOr<uint64_t> bytes = TensorBytes(*location.tensor);
    VLM_CHECK(bytes.ok() && *bytes == location.tensor->bytes(), "a tensor's bytes do not follow from its shape");
    std::vector<std::byte> contents(*bytes);
    const absl::Status read = folder.Read(name, 0, contents);
    VLM_CHECK(read.ok(), read.ToString());
  }
  for (const auto& file : folder.files()) {
    std::vector<TensorSpec> specs(file->header().tensors.begin(), file->header().tensors.end());
    const absl::StatusOr<SafetensorsHeader> plan = PlanSafetensors(std::move(specs), file->header().metadata);
    if (!plan.ok()) continue;  // an empty name is read and not written
    const std::string text = SerializeSafetensorsHeader(*plan);
    const absl::StatusOr<SafetensorsHeader> again =
        ParseSafetensorsHeader(std::string_view(text).substr(8), text.size() + plan->data_bytes());
    VLM_CHECK(again.ok(), again.status().ToString());
  }
}

void Open(SimulatedFileSystem* files) {
  const absl::StatusOr<std::unique_ptr<SafetensorsFolder>> folder =
      SafetensorsFolder::Open(files, kFolder, {.require_sums = false});
  if (folder.ok()) ReadAll(**folder);
}

void Run(FuzzInput input) {
  SimulatedFileSystem files;
  VLM_CHECK(files.MakeDirectory(kFolder).ok(), "cannot make the folder");
  const std::string file = std::string(kFolder) + "/model.safetensors";
  switch (input.Byte() % 3) {
    case 0:
      fuzz::PutFile(&files, file, input.Rest());
      break;
    case 1: {
      const size_t data_bytes = input.Byte();
      fuzz::PutFile(&files, file, WithLength(fuzz::ReadJsonText({Header()}, &input), data_bytes));
      break;
    }
    default: {
      const json index = {
          {"metadata", {{"total_size", 16}}},
          {"weight_map", {{"x", "model-00001-of-00002.safetensors"}, {"y", "model-00002-of-00002.safetensors"}}}};
      fuzz::PutFile(&files, std::string(kFolder) + "/model-00001-of-00002.safetensors", GoodFile("x"));
      fuzz::PutFile(&files, std::string(kFolder) + "/model-00002-of-00002.safetensors", GoodFile("y"));
      fuzz::PutFile(&files, file + ".index.json", fuzz::ReadJsonText({index}, &input));
    }
  }
  Open(&files);
}

}  // namespace
}  // namespace vlm::checkpoint

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::checkpoint::Run(vlm::fuzz::FuzzInput(data, size));
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  using vlm::checkpoint::Header;
  using vlm::checkpoint::WithLength;
  const std::string raw(1, '\0');
  const std::string good = WithLength(Header().dump(), 40);
  const std::string unedited("\0\0", 2);
  return {raw + good, raw + good.substr(0, 100), raw + std::string(8, '\xff'), "\x01\x28" + unedited,
          std::string("\x02") + unedited,
          // Edits: a value replaced by a number, an entry removed, a key repeated.
          std::string("\x01\x28\x00\x02\x00\x01\x01\x02\x07\x00", 10),
          std::string("\x01\x28\x00\x03\x02\x01\x00\x04\x00", 9), std::string("\x01\x28\x00\x01\x00", 5),
          std::string("\x02\x00\x05\x01\x01\x01\x08\x00", 8)};
}
