// How often each word of a corpus occurs: what byte-pair training needs of the corpus, and all it needs.
//
// Shards of a corpus are counted apart and merged in any order: the result is the same, byte for byte.
#ifndef VLM_DATA_TOKENIZER_WORD_COUNTS_H_
#define VLM_DATA_TOKENIZER_WORD_COUNTS_H_

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "data/tokenizer/split_pattern.h"

namespace vlm::data {

struct WordCount {
  std::string_view word;  // raw bytes, lives as long as its WordCounts
  uint64_t count = 0;
};

// Movable. Not thread-safe: one per thread, then Merge.
class WordCounts {
 public:
  explicit WordCounts(SplitPattern pattern);
  WordCounts(WordCounts&&) = default;
  WordCounts& operator=(WordCounts&&) = default;

  SplitPattern pattern() const { return pattern_; }
  uint64_t unique_words() const { return entries_.size(); }
  uint64_t total_words() const { return total_words_; }  // saturates at 2^64 - 1

  // Counts the words of one document. Words never span two calls. Invalid UTF-8 is counted as
  // split_pattern.h defines it.
  void Add(std::string_view text);

  // Adds `count` occurrences of one word, without splitting it. An empty word or zero count changes nothing.
  void AddWord(std::string_view word, uint64_t count);

  // Adds the counts of `other`. INVALID_ARGUMENT when it was split by another pattern.
  absl::Status Merge(const WordCounts& other);

  // All words in ascending byte order.
  std::vector<WordCount> Sorted() const;

  // The format of FORMAT.md: equal counts give equal bytes, whatever the order of Add and Merge.
  std::string Serialize() const;
  // INVALID_ARGUMENT when `bytes` are not a whole word-count file of a known version: wrong magic, cut
  // short, words out of order or longer than the file, counts of zero, or a digest that does not match.
  static absl::StatusOr<WordCounts> Parse(std::string_view bytes);

 private:
  struct Entry {
    const char* word;
    uint32_t length;
    uint32_t tag;  // the upper half of the word's hash
    uint64_t count;
  };

  void Grow();
  const char* Store(std::string_view word);

  SplitPattern pattern_;
  uint64_t total_words_ = 0;
  std::vector<Entry> entries_;     // in order of first sight
  std::vector<uint32_t> slots_;    // open addressing: index into entries_ plus one, 0 for free
  std::deque<std::string> bytes_;  // blocks the words lie in; a block never moves
};

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_WORD_COUNTS_H_
