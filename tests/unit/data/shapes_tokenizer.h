// A small trained tokenizer for tests of data/.
#ifndef VLM_TESTS_UNIT_DATA_SHAPES_TOKENIZER_H_
#define VLM_TESTS_UNIT_DATA_SHAPES_TOKENIZER_H_

#include <memory>

#include "base/check.h"
#include "data/tokenizer/chat_files.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/word_counts.h"

namespace vlm::data {

inline std::unique_ptr<Tokenizer> TrainSmallTokenizer() {
  WordCounts counts(SplitPattern::kQwen2);
  for (int i = 0; i < 3; ++i) counts.Add("the red circle is left of the blue square, which color? user assistant\n");
  absl::StatusOr<BytePairModel> model =
      TrainBytePair(counts, {.vocab_size = 320, .special_tokens = ChatSpecialTokens()});
  VLM_CHECK(model.ok(), std::string(model.status().message()));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(*std::move(model));
  VLM_CHECK(tokenizer.ok(), std::string(tokenizer.status().message()));
  return *std::move(tokenizer);
}

}  // namespace vlm::data

#endif  // VLM_TESTS_UNIT_DATA_SHAPES_TOKENIZER_H_
