// A byte-level byte-pair tokenizer as plain data, and its training.
#ifndef VLM_DATA_TOKENIZER_BYTE_PAIR_MODEL_H_
#define VLM_DATA_TOKENIZER_BYTE_PAIR_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/tokenizer/split_pattern.h"
#include "data/tokenizer/word_counts.h"

namespace vlm::data {

// Most entries a vocabulary may have, added tokens included: four times the largest in use.
inline constexpr int32_t kVocabularyEntriesMax = 1 << 20;
// Longest added token in bytes.
inline constexpr size_t kAddedTokenBytesMax = 256;

// Most special tokens a training may reserve.
inline constexpr size_t kSpecialTokensMax = 4096;

// A token recognised as a whole, outside the merges.
struct AddedToken {
  int32_t id = 0;
  std::string content;      // as it stands in a text, UTF-8
  bool special = true;      // special tokens are recognised only when the caller asks for it
  bool normalized = false;  // those that are not are looked for first, as `tokenizers` does
};

// Merge `rank` of a model joins tokens `left` and `right`; lower ranks first.
struct BytePairMerge {
  int32_t left = 0;
  int32_t right = 0;
  friend bool operator==(const BytePairMerge&, const BytePairMerge&) = default;
};

struct BytePairModel {
  SplitPattern pattern = SplitPattern::kQwen2;
  // Index is the id. Entries are in the byte alphabet (byte_alphabet.h), as in a tokenizer.json; special
  // tokens stand as they are.
  std::vector<std::string> vocabulary;
  std::vector<BytePairMerge> merges;
  std::vector<AddedToken> added_tokens;  // by id; those beyond `vocabulary` continue its numbering
  bool ignore_merges = false;            // a word that is an entry is that entry, even if merges do not lead there
};

struct BytePairOptions {
  int32_t vocab_size = 0;                   // entries wanted, special tokens and the 256 bytes included
  uint64_t min_frequency = 2;               // pairs that occur less often are not merged; 0 is as 1
  std::vector<std::string> special_tokens;  // get the first ids, in this order
  std::function<void()> advance = nullptr;  // called after each merge, when set: training takes minutes
};

// Trains on `counts`; vocabulary, merges and their order equal those of Hugging Face `tokenizers`'
// BpeTrainer with ByteLevel.alphabet() as initial alphabet on the same corpus, ties included (of equally
// frequent pairs the one with the lower left id, then lower right id). The result has fewer than
// vocab_size entries when the corpus has no more pairs to merge, and more when vocab_size is less than the
// special tokens and 256 bytes. Blocking, one thread, O(corpus words) memory.
// INVALID_ARGUMENT: vocab_size below 1 or above kVocabularyEntriesMax; too many special tokens, or one that is
// empty, too long, repeated, not UTF-8, or one word of the pattern (text could become it). OUT_OF_RANGE: more than
// 2^32 - 1 bytes of unique words.
absl::StatusOr<BytePairModel> TrainBytePair(const WordCounts& counts, const BytePairOptions& options);

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_BYTE_PAIR_MODEL_H_
