#include <algorithm>
#include <queue>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/byte_pair_model.h"
#include "data/tokenizer/word_hash.h"

namespace vlm::data {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Occurrences by pair: an open-addressing table, never iterated.
class PairCounts {
 public:
  PairCounts() : slots_(size_t{1} << 17) {}

  int64_t Of(uint64_t pair) const { return slots_[SlotOf(pair)].count; }

  // Returns the new count.
  int64_t Add(uint64_t pair, int64_t change) {
    Slot& slot = slots_[SlotOf(pair)];
    if (slot.pair == kFree) {
      slot = {pair, change};
      if (++used_ * 2 > slots_.size()) Grow();
      return change;
    }
    return slot.count += change;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Slot {
    uint64_t pair = kFree;
    int64_t count = 0;
  };

  size_t SlotOf(uint64_t pair) const {
    size_t slot = FoldedProduct(pair ^ kHashSeedA, kHashSeedB) & (slots_.size() - 1);
    while (slots_[slot].pair != pair && slots_[slot].pair != kFree) slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  void Grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.pair != kFree) slots_[SlotOf(slot.pair)] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

// A pair that may be merged next, and the words that may hold it: a range of the position pool. The count
// is that of when it was queued.
struct Candidate {
  int64_t count;
  uint64_t pair;
  uint64_t positions_begin;
  uint32_t positions;
};

// The reference's order: higher counts first, of equal counts the lower pair of ids.
struct MergesLater {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.count != b.count ? a.count < b.count : a.pair > b.pair;
  }
};

struct Word {
  uint32_t begin;   // of its symbols
  uint32_t length;  // in symbols, fewer after each merge
  int64_t weight;   // occurrences
};

// What one merge changes for the pairs that a token id forms on one side of the merged pair.
struct Neighbour {
  int64_t weight = 0;
  uint32_t events = 0;
  uint32_t cursor = 0;
  uint32_t last_word = ~uint32_t{0};
  bool touched = false;
};

class NeighbourSide {
 public:
  void Resize(size_t ids) { by_id_.resize(ids); }
  const std::vector<int32_t>& touched() const { return touched_; }
  const Neighbour& of(int32_t id) const { return by_id_[id]; }

  void AddWeight(int32_t id, int64_t weight) { Touch(id).weight += weight; }

  void AddWord(int32_t id, uint32_t word) {
    Neighbour& neighbour = Touch(id);
    if (neighbour.last_word == word) return;
    neighbour.last_word = word;
    ++neighbour.events;
    events_.emplace_back(id, word);
  }

  // Appends each touched id's words to `pool`, one range per id in the order of touched(); the range of an
  // id then ends at of(id).cursor past `pool`'s size before the call.
  void Scatter(std::vector<uint32_t>* pool) {
    const size_t begin = pool->size();
    uint32_t at = 0;
    for (int32_t id : touched_) {
      by_id_[id].cursor = at;
      at += by_id_[id].events;
    }
    pool->resize(begin + at);
    for (const auto& [id, word] : events_) (*pool)[begin + by_id_[id].cursor++] = word;
  }

  void Clear() {
    for (int32_t id : touched_) by_id_[id] = Neighbour();
    touched_.clear();
    events_.clear();
  }

 private:
  Neighbour& Touch(int32_t id) {
    Neighbour& neighbour = by_id_[id];
    if (!neighbour.touched) {
      neighbour.touched = true;
      touched_.push_back(id);
    }
    return neighbour;
  }

  std::vector<Neighbour> by_id_;
  std::vector<int32_t> touched_;
  std::vector<std::pair<int32_t, uint32_t>> events_;
};

// The reference's algorithm: a queue of candidates with the words they were seen in, counts corrected when
// a candidate comes up. Two of its habits matter for equality and are kept: the count of a merged pair is
// never taken back, and a merge whose text is already an entry takes that entry's id (so a pair may
// form, and be merged, again).
class Trainer {
 public:
  Trainer(const WordCounts& counts, const BytePairOptions& options) : options_(options) {
    model_.pattern = counts.pattern();
    AddInitialEntries();
    AddWords(counts);
    QueueInitialPairs();
  }

  BytePairModel Train() && {
    while (model_.vocabulary.size() < static_cast<size_t>(options_.vocab_size) && !queue_.empty()) {
      Candidate top = queue_.top();
      queue_.pop();
      const int64_t count = counts_.Of(top.pair);
      if (top.count != count) {
        top.count = count;
        queue_.push(top);
        continue;
      }
      if (count < 1 || static_cast<uint64_t>(count) < options_.min_frequency) break;
      MergeEverywhere(top);
      if (options_.advance) options_.advance();
    }
    KeepLastOfRepeatedMerges();
    return std::move(model_);
  }

 private:
  int32_t EntryId(std::string entry) {
    const auto [found, is_new] = ids_.try_emplace(std::move(entry), static_cast<int32_t>(model_.vocabulary.size()));
    if (is_new) {
      model_.vocabulary.push_back(found->first);
      left_.Resize(model_.vocabulary.size());
      right_.Resize(model_.vocabulary.size());
    }
    return found->second;
  }

  void AddInitialEntries() {
    for (const std::string& token : options_.special_tokens) {
      model_.added_tokens.push_back({EntryId(token), token});
    }
    for (uint8_t byte : BytesInAlphabetOrder()) byte_ids_[byte] = EntryId(std::string(AlphabetCharacter(byte)));
  }

  void AddWords(const WordCounts& counts) {
    const std::vector<WordCount> words = counts.Sorted();
    words_.reserve(words.size());
    for (const WordCount& word : words) {
      words_.push_back({static_cast<uint32_t>(symbols_.size()), static_cast<uint32_t>(word.word.size()),
                        static_cast<int64_t>(word.count)});
      for (char byte : word.word) symbols_.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    }
  }

  // Counts the pairs of bytes and queues each with its words: pairs of first ids fit a dense table.
  void QueueInitialPairs() {
    const size_t ids = model_.vocabulary.size();
    std::vector<NeighbourSide> pairs(ids);
    for (uint8_t byte : BytesInAlphabetOrder()) pairs[byte_ids_[byte]].Resize(ids);
    for (uint32_t word = 0; word < words_.size(); ++word) {
      const int32_t* symbols = &symbols_[words_[word].begin];
      for (uint32_t i = 0; i + 1 < words_[word].length; ++i) {
        pairs[symbols[i]].AddWeight(symbols[i + 1], words_[word].weight);
        pairs[symbols[i]].AddWord(symbols[i + 1], word);
      }
    }
    for (size_t left = 0; left < ids; ++left) {
      for (int32_t right : pairs[left].touched()) {
        counts_.Add(PairKey(static_cast<int32_t>(left), right), pairs[left].of(right).weight);
      }
      QueueTouched(&pairs[left], [left](int32_t right) { return PairKey(static_cast<int32_t>(left), right); });
      pairs[left] = NeighbourSide();
    }
  }

  template <typename KeyOfId>
  void QueueTouched(NeighbourSide* side, KeyOfId key_of_id) {
    const uint64_t begin = positions_.size();
    side->Scatter(&positions_);
    for (int32_t id : side->touched()) {
      const Neighbour& neighbour = side->of(id);
      if (neighbour.events == 0) continue;
      const uint64_t pair = key_of_id(id);
      const int64_t count = counts_.Of(pair);
      if (count <= 0) continue;
      queue_.push({count, pair, begin + neighbour.cursor - neighbour.events, neighbour.events});
    }
  }

  void MergeEverywhere(const Candidate& candidate) {
    const int32_t left = static_cast<int32_t>(candidate.pair >> 32);
    const int32_t right = static_cast<int32_t>(candidate.pair & 0xFFFFFFFF);
    const int32_t merged = EntryId(model_.vocabulary[left] + model_.vocabulary[right]);
    model_.merges.push_back({left, right});
    // Words lie far apart: each is asked for some merges ahead, first its place, then its symbols.
    constexpr uint32_t kAhead = 8;
    const uint32_t* const positions = &positions_[candidate.positions_begin];
    for (uint32_t i = 0; i < candidate.positions; ++i) {
      if (i + 2 * kAhead < candidate.positions) __builtin_prefetch(&words_[positions[i + 2 * kAhead]]);
      if (i + kAhead < candidate.positions) {
        const int32_t* symbols = &symbols_[words_[positions[i + kAhead]].begin];
        __builtin_prefetch(symbols);
        __builtin_prefetch(symbols + 16);
      }
      MergeInWord(positions[i], left, right, merged);
    }
    for (int32_t id : left_.touched()) {
      counts_.Add(PairKey(id, left), -left_.of(id).weight);
      counts_.Add(PairKey(id, merged), left_.of(id).weight);
    }
    for (int32_t id : right_.touched()) {
      counts_.Add(PairKey(right, id), -right_.of(id).weight);
      counts_.Add(PairKey(merged, id), right_.of(id).weight);
    }
    QueueTouched(&left_, [merged](int32_t id) { return PairKey(id, merged); });
    QueueTouched(&right_, [merged](int32_t id) { return PairKey(merged, id); });
    left_.Clear();
    right_.Clear();
  }

  void MergeInWord(uint32_t word, int32_t left, int32_t right, int32_t merged) {
    int32_t* const symbols = &symbols_[words_[word].begin];
    const uint32_t length = words_[word].length;
    const int64_t weight = words_[word].weight;
    uint32_t first = 0;
    while (first + 1 < length && (symbols[first] != left || symbols[first + 1] != right)) ++first;
    if (first + 1 >= length) return;
    uint32_t kept = first;
    for (uint32_t i = first; i < length;) {
      if (symbols[i] != left || i + 1 == length || symbols[i + 1] != right) {
        symbols[kept++] = symbols[i++];
        continue;
      }
      if (kept > 0) {
        left_.AddWeight(symbols[kept - 1], weight);
        left_.AddWord(symbols[kept - 1], word);
      }
      i += 2;
      if (i < length) {
        right_.AddWeight(symbols[i], weight);
        // The pair (merged, merged) is one candidate, whichever side it was seen from.
        (symbols[i] == merged ? left_ : right_).AddWord(symbols[i], word);
      }
      symbols[kept++] = merged;
    }
    words_[word].length = kept;
  }

  // The reference keeps merges in a map by pair: of a repeated pair the last rank stays.
  void KeepLastOfRepeatedMerges() {
    std::unordered_set<uint64_t> seen;
    std::vector<BytePairMerge> kept;
    for (size_t i = model_.merges.size(); i-- > 0;) {
      const BytePairMerge& merge = model_.merges[i];
      if (seen.insert(PairKey(merge.left, merge.right)).second) kept.push_back(merge);
    }
    std::reverse(kept.begin(), kept.end());
    model_.merges = std::move(kept);
  }

  const BytePairOptions& options_;
  BytePairModel model_;
  std::unordered_map<std::string, int32_t> ids_;  // looked up only, never iterated
  int32_t byte_ids_[256] = {};
  std::vector<Word> words_;
  std::vector<int32_t> symbols_;     // of all words, each at its place
  std::vector<uint32_t> positions_;  // the words of all candidates, range by range
  PairCounts counts_;
  NeighbourSide left_;
  NeighbourSide right_;
  std::priority_queue<Candidate, std::vector<Candidate>, MergesLater> queue_;
};

absl::Status CheckSpecialTokens(const BytePairOptions& options, SplitPattern pattern) {
  std::unordered_set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    if (token.empty()) return absl::InvalidArgumentError("a special token is empty");
    if (token.size() > kAddedTokenBytesMax) {
      return absl::InvalidArgumentError("special token is longer than " + std::to_string(kAddedTokenBytesMax) +
                                        " bytes: " + token.substr(0, 64));
    }
    if (!IsUtf8(token)) return absl::InvalidArgumentError("special token is not UTF-8");
    if (!seen.insert(token).second) return absl::InvalidArgumentError("special token is given twice: " + token);
    WordSplitter splitter(pattern, token);
    std::string_view word;
    splitter.Next(&word);
    if (word.size() == token.size()) {
      return absl::InvalidArgumentError(
          "special token is one word of the split pattern, so plain text could become it; "
          "write it in marks, as <|name|>: " +
          token);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BytePairModel> TrainBytePair(const WordCounts& counts, const BytePairOptions& options) {
  if (options.vocab_size < 1 || options.vocab_size > kVocabularyEntriesMax) {
    return absl::InvalidArgumentError("vocab_size must be 1 to " + std::to_string(kVocabularyEntriesMax) + ": " +
                                      std::to_string(options.vocab_size));
  }
  if (options.special_tokens.size() > kSpecialTokensMax) {
    return absl::InvalidArgumentError("more special tokens than " + std::to_string(kSpecialTokensMax) + ": " +
                                      std::to_string(options.special_tokens.size()));
  }
  VLM_RETURN_IF_ERROR(CheckSpecialTokens(options, counts.pattern()));
  uint64_t bytes = 0;
  for (const WordCount& word : counts.Sorted()) bytes += word.word.size();
  if (bytes > UINT32_MAX) {
    return absl::OutOfRangeError("unique words have more than 2^32 - 1 bytes; train on a part of the corpus: " +
                                 std::to_string(bytes));
  }
  return Trainer(counts, options).Train();
}

}  // namespace vlm::data
