// A tokenizer.json of others: refused with a reason, or it encodes any text, gives the text back, and is written and
// read again as the same tokenizer. The first byte says whether the rest are edits to a good file or a file.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/json_editor.h"
#include "tests/unit/data/shapes_tokenizer.h"

namespace vlm::data {
namespace {

const nlohmann::json& GoodFile() {
  static const auto* const kFile = new nlohmann::json(nlohmann::json::parse(TrainSmallTokenizer()->ToJson()));
  return *kFile;
}

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  for (const auto& ids : {tokenizer.EncodeOrdinary(text), tokenizer.EncodeWithSpecial(text)}) {
    for (const int32_t id : ids) VLM_CHECK(id >= 0 && id < tokenizer.vocab_size(), "an id outside the vocabulary");
    const absl::StatusOr<std::string> back = tokenizer.Decode(ids);
    VLM_CHECK(back.ok(), back.status().ToString());
    VLM_CHECK(*back == text, "a text changed on its way through its ids");
  }
}

void Read(const std::string& text) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromJson(text);
  if (!tokenizer.ok()) {
    VLM_CHECK(!tokenizer.status().message().empty(), "refused without a reason");
    return;
  }
  const std::string json = (*tokenizer)->ToJson();
  const absl::StatusOr<std::unique_ptr<Tokenizer>> again = Tokenizer::FromJson(json);
  VLM_CHECK(again.ok(), again.status().ToString());
  VLM_CHECK((*again)->ToJson() == json, "a tokenizer changed on its way through its file");
  CheckText(**tokenizer, "The red circle\n is 12 <|im_start|>left\xff of\xc3\xa9\xe2\x80\xa8 <|image|>");
  CheckText(**tokenizer, text.substr(0, 256));
}

}  // namespace
}  // namespace vlm::data

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  vlm::data::Read(vlm::fuzz::ReadJsonText({vlm::data::GoodFile()}, &input));
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  const std::string raw = "\xff";
  const std::string edit("\0\x02", 2);
  return {
      std::string("\0\0", 2), raw + vlm::data::GoodFile().dump(), raw + "{}", raw,
      // An entry of the file replaced, removed, copied, renamed.
      edit + std::string("\x00\x01\x00\x01\x02\x00\x01\x00", 8), edit + std::string("\x02\x03\x00\x01\x07\x00\x00", 7),
      edit + std::string("\x03\x03\x00\x01\x02\x00\x01\x03ver", 11), edit + std::string("\x04\x05\x00\x04\x03xyz", 8)};
}
