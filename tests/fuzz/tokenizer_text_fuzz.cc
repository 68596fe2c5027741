// Any bytes through an accepted tokenizer, of each split pattern: encoded, decoded, and ids out of nowhere decoded.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/tokenizer/chat_files.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/word_counts.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace vlm::data {
namespace {

std::unique_ptr<Tokenizer> Train(SplitPattern pattern) {
  WordCounts counts(pattern);
  for (int i = 0; i < 3; ++i)
    counts.Add("the red circle is left of the blue square's 12 corners\r\n\n  na\xc3\xafve\n");
  absl::StatusOr<BytePairModel> model =
      TrainBytePair(counts, {.vocab_size = 320, .special_tokens = ChatSpecialTokens()});
  VLM_CHECK(model.ok(), model.status().ToString());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(*std::move(model));
  VLM_CHECK(tokenizer.ok(), tokenizer.status().ToString());
  return *std::move(tokenizer);
}

const Tokenizer& Any(size_t number) {
  static const auto* const kTokenizers = new std::vector<std::unique_ptr<Tokenizer>>([] {
    std::vector<std::unique_ptr<Tokenizer>> made;
    for (const SplitPattern pattern : {SplitPattern::kGpt2, SplitPattern::kGpt4, SplitPattern::kQwen2}) {
      made.push_back(Train(pattern));
    }
    return made;
  }());
  return *(*kTokenizers)[number % kTokenizers->size()];
}

void Encode(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ordinary = tokenizer.EncodeOrdinary(text);
  for (const int32_t id : ordinary) {
    VLM_CHECK(id >= 0 && id < tokenizer.vocab_size(), "an id outside the vocabulary");
    VLM_CHECK(!tokenizer.IsSpecial(id), "a text became a control token");
  }
  for (const auto& ids : {ordinary, tokenizer.EncodeWithSpecial(text)}) {
    const absl::StatusOr<std::string> back = tokenizer.Decode(ids);
    VLM_CHECK(back.ok(), back.status().ToString());
    VLM_CHECK(*back == text, "a text changed on its way through its ids");
  }
}

void Decode(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<int32_t> ids(bytes.size() / sizeof(int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(int32_t));
  bool known = true;
  for (const int32_t id : ids) known = known && id >= 0 && id < tokenizer.vocab_size();
  VLM_CHECK(tokenizer.Decode(ids, SpecialTokens::kSkip).ok() == known,
            "an unknown id was decoded, or a known one refused");
}

}  // namespace
}  // namespace vlm::data

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  const vlm::data::Tokenizer& tokenizer = vlm::data::Any(input.Byte());
  const std::string_view text = input.Rest();
  vlm::data::Encode(tokenizer, text);
  vlm::data::Decode(tokenizer, text);
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  for (int pattern = 0; pattern < 3; ++pattern) {
    const std::string first(1, static_cast<char>(pattern));
    seeds.push_back(first + "the red circle's 1234567 \t\r\n corners, I'LL na\xc3\xafve \xe4\xb8\xad\xe6\x96\x87 ok");
    seeds.push_back(first + "<|im_start|>user\n<|image|>what?<|im_end|><|endoftext|><|im_st");
    seeds.push_back(first + std::string(300, 'a') + std::string(300, ' ') + "\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80");
    seeds.push_back(first + std::string("\x00\x01\x00\x00\x3f\x01\x00\x00\xff\xff\xff\xff", 12));
  }
  return seeds;
}
