// One word to ids: byte pairs merged by rank, lowest first, leftmost of equals.
#ifndef VLM_DATA_TOKENIZER_WORD_ENCODER_H_
#define VLM_DATA_TOKENIZER_WORD_ENCODER_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/byte_pair_model.h"

namespace vlm::data {

// Bits of a token id and of a merge's rank in the merge table.
inline constexpr int kTokenIdBits = 20;
inline constexpr int kMergeRankBits = 24;
static_assert(kVocabularyEntriesMax <= 1 << kTokenIdBits);

// Immutable, thread-safe. Words that encode to one id are found in a table made beforehand, so a text's
// first words are as fast as its later ones.
class WordEncoder {
 public:
  // `model` and `token_bytes` (by id) must be consistent, as Tokenizer::Create checks; `results` is the id
  // each merge makes. Entries for which `special` is true are never the result of a word.
  WordEncoder(const BytePairModel& model, const std::vector<std::string>& token_bytes, const std::vector<bool>& special,
              std::vector<int32_t> results);

  // The cache of one call over one text: words that need several ids, by their place in the text.
  class Cache {
   public:
    // Appends the ids of `word`, which must outlive the cache.
    void Encode(const WordEncoder& encoder, std::string_view word, std::vector<int32_t>* ids);

   private:
    struct Slot {
      uint64_t hash = 0;
      const char* word = nullptr;  // nullptr for free
      uint32_t bytes = 0;
      uint32_t ids = 0;
      size_t ids_begin = 0;  // into the pool
    };

    void Grow();

    std::vector<Slot> slots_;
    size_t used_ = 0;
    std::vector<int32_t> pool_;
  };

 private:
  static constexpr uint32_t kNoMerge = 0x7FFFFFFF;

  // Words of up to 16 bytes as two numbers.
  struct ShortWord {
    uint64_t low = 0;
    uint64_t high = 0;
    uint32_t bytes = 0;  // 0 for free
    int32_t id = 0;
  };

  uint32_t RankOf(int32_t left, int32_t right) const;
  // The id of a word that is one token, else -1.
  int32_t WholeWord(std::string_view word) const;
  void AddWholeWord(std::string_view word, int32_t id);
  void Merge(std::string_view word, std::vector<int32_t>* ids) const;
  void MergeShort(std::string_view word, std::vector<int32_t>* ids) const;
  void MergeLong(std::string_view word, std::vector<int32_t>* ids) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<uint32_t> byte_ranks_;    // rank of the pair of bytes [first * 256 + second]
  std::vector<int32_t> results_;        // id by rank
  std::vector<uint64_t> merge_slots_;   // left, right and rank in one number; ~0 for free
  std::vector<ShortWord> short_words_;  // open addressing
  std::unordered_map<std::string, int32_t> long_words_;
};

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_WORD_ENCODER_H_
