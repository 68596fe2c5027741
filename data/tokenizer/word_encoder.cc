#include "data/tokenizer/word_encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <queue>
#include <utility>

#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/word_hash.h"

namespace vlm::data {
namespace {

constexpr uint64_t kFreeMerge = ~uint64_t{0};
// Up to here a scan for the lowest rank is faster than a heap (measured on English, code and Chinese).
constexpr size_t kShortWordBytesMax = 96;
constexpr int kPlaceBits = 7;
constexpr int32_t kPlaceMask = (1 << kPlaceBits) - 1;
static_assert(kShortWordBytesMax <= size_t{1} << kPlaceBits && kMergeRankBits + kPlaceBits <= 31);
constexpr int32_t kDead = 0x7FFFFFFF;
// Words beyond this seldom come twice.
constexpr size_t kCachedWordBytesMax = 64;
constexpr size_t kCacheSlotsFirst = 256;
// The cache stops taking new words here (2 MiB of slots) and keeps serving those it has.
constexpr size_t kCacheSlotsMax = 1 << 16;

uint64_t MergeKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << kTokenIdBits | static_cast<uint64_t>(right);
}

size_t MergeHash(uint64_t key) { return (key * kHashSeedA) >> 20; }

// kNoMerge, the highest rank there is, becomes kDead.
int32_t PairAt(uint32_t rank, size_t place) {
  return rank >> kMergeRankBits != 0 ? kDead : static_cast<int32_t>(rank << kPlaceBits | place);
}

// Four numbers at once: the compilers' vectors, which need no particular instruction set.
typedef int32_t Lanes __attribute__((vector_size(16)));
constexpr size_t kLaneCount = 4;

// The lowest of `count` numbers, a multiple of kLaneCount and at least one.
int32_t LowestOf(const int32_t* numbers, size_t count) {
  Lanes lowest, more;
  std::memcpy(&lowest, numbers, sizeof lowest);
  for (size_t i = kLaneCount; i < count; i += kLaneCount) {
    std::memcpy(&more, numbers + i, sizeof more);
    lowest = more < lowest ? more : lowest;
  }
  return std::min(std::min(lowest[0], lowest[1]), std::min(lowest[2], lowest[3]));
}

struct PackedWord {
  uint64_t low;
  uint64_t high;
};

PackedWord Pack(std::string_view word) {  // up to 16 bytes
  if (word.size() <= 8) return {LoadUpTo8(word.data(), word.size()), 0};
  return {LoadWord64(word.data()), LoadWord64(word.data() + word.size() - 8)};
}

size_t ShortWordHash(PackedWord packed, size_t bytes) {
  return FoldedProduct(packed.low ^ kHashSeedA ^ bytes, packed.high ^ kHashSeedB);
}

}  // namespace

WordEncoder::WordEncoder(const BytePairModel& model, const std::vector<std::string>& token_bytes,
                         const std::vector<bool>& special, std::vector<int32_t> results)
    : byte_ranks_(65536, kNoMerge), results_(std::move(results)) {
  merge_slots_.assign(std::bit_ceil(std::max<size_t>(model.merges.size() * 2, 16)), kFreeMerge);
  for (size_t rank = 0; rank < model.merges.size(); ++rank) {
    const uint64_t key = MergeKey(model.merges[rank].left, model.merges[rank].right);
    size_t slot = MergeHash(key) & (merge_slots_.size() - 1);
    while (merge_slots_[slot] != kFreeMerge) slot = (slot + 1) & (merge_slots_.size() - 1);
    merge_slots_[slot] = key << kMergeRankBits | rank;
  }
  for (size_t id = 0; id < model.vocabulary.size(); ++id) {
    if (token_bytes[id].size() == 1 && !special[id]) {
      byte_ids_[static_cast<uint8_t>(token_bytes[id][0])] = static_cast<int32_t>(id);
    }
  }
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      byte_ranks_[first * 256 + second] = RankOf(byte_ids_[first], byte_ids_[second]);
    }
  }
  short_words_.resize(std::bit_ceil(token_bytes.size() * 2 + 16));
  std::vector<int32_t> ids;
  for (size_t id = 0; id < model.vocabulary.size(); ++id) {
    if (special[id]) continue;
    ids.clear();
    Merge(token_bytes[id], &ids);
    const bool whole = model.ignore_merges && BytesOfEntry(model.vocabulary[id]) == token_bytes[id];
    if (whole || (ids.size() == 1 && ids[0] == static_cast<int32_t>(id))) {
      AddWholeWord(token_bytes[id], static_cast<int32_t>(id));
    }
  }
}

void WordEncoder::AddWholeWord(std::string_view word, int32_t id) {
  if (word.size() > 16) {
    long_words_.emplace(word, id);
    return;
  }
  const PackedWord packed = Pack(word);
  size_t slot = ShortWordHash(packed, word.size()) & (short_words_.size() - 1);
  while (short_words_[slot].bytes != 0) slot = (slot + 1) & (short_words_.size() - 1);
  short_words_[slot] = {packed.low, packed.high, static_cast<uint32_t>(word.size()), id};
}

int32_t WordEncoder::WholeWord(std::string_view word) const {
  if (word.size() > 16) {
    if (long_words_.empty()) return -1;
    const auto found = long_words_.find(std::string(word));
    return found == long_words_.end() ? -1 : found->second;
  }
  const PackedWord packed = Pack(word);
  size_t slot = ShortWordHash(packed, word.size()) & (short_words_.size() - 1);
  for (; short_words_[slot].bytes != 0; slot = (slot + 1) & (short_words_.size() - 1)) {
    const ShortWord& entry = short_words_[slot];
    if (entry.low == packed.low && entry.high == packed.high && entry.bytes == word.size()) return entry.id;
  }
  return -1;
}

uint32_t WordEncoder::RankOf(int32_t left, int32_t right) const {
  const uint64_t key = MergeKey(left, right);
  size_t slot = MergeHash(key) & (merge_slots_.size() - 1);
  for (; merge_slots_[slot] != kFreeMerge; slot = (slot + 1) & (merge_slots_.size() - 1)) {
    if (merge_slots_[slot] >> kMergeRankBits == key) {
      return static_cast<uint32_t>(merge_slots_[slot] & ((1u << kMergeRankBits) - 1));
    }
  }
  return kNoMerge;
}

void WordEncoder::Merge(std::string_view word, std::vector<int32_t>* ids) const {
  if (word.size() <= kShortWordBytesMax) {
    MergeShort(word, ids);
  } else {
    MergeLong(word, ids);
  }
}

// Each place of the word holds (rank of the pair that begins there) * 128 + place, or kDead: the lowest of
// all places is the leftmost pair of lowest rank. Places never move; merged ones are skipped by links.
void WordEncoder::MergeShort(std::string_view word, std::vector<int32_t>* ids) const {
  alignas(16) int32_t pairs[kShortWordBytesMax];
  int32_t tokens[kShortWordBytesMax];
  uint8_t next[kShortWordBytesMax];
  uint8_t previous[kShortWordBytesMax];
  const size_t bytes = word.size();
  for (size_t i = 0; i < bytes; ++i) {
    const uint8_t byte = static_cast<uint8_t>(word[i]);
    tokens[i] = byte_ids_[byte];
    next[i] = static_cast<uint8_t>(i + 1);
    previous[i] = static_cast<uint8_t>(i - 1);
    pairs[i] = i + 1 < bytes ? PairAt(byte_ranks_[byte * 256 + static_cast<uint8_t>(word[i + 1])], i) : kDead;
  }
  const size_t places = (bytes + kLaneCount - 1) / kLaneCount * kLaneCount;
  std::fill(pairs + bytes, pairs + places, kDead);
  while (true) {
    const int32_t best = LowestOf(pairs, places);
    if (best == kDead) break;
    const size_t place = static_cast<size_t>(best & kPlaceMask);
    const size_t taken = next[place];
    tokens[place] = results_[best >> kPlaceBits];
    pairs[taken] = kDead;
    const size_t after = next[taken];
    next[place] = static_cast<uint8_t>(after);
    pairs[place] = kDead;
    if (after < bytes) {
      previous[after] = static_cast<uint8_t>(place);
      pairs[place] = PairAt(RankOf(tokens[place], tokens[after]), place);
    }
    if (place > 0) {
      const size_t before = previous[place];
      pairs[before] = PairAt(RankOf(tokens[before], tokens[place]), before);
    }
  }
  for (size_t i = 0; i < bytes; i = next[i]) ids->push_back(tokens[i]);
}

// A linked list of tokens and a heap of (rank, place of the left token); entries made out of date by other
// merges are recognised by looking up the pair's rank again.
void WordEncoder::MergeLong(std::string_view word, std::vector<int32_t>* ids) const {
  struct Node {
    int32_t token;  // -1 when merged into the token before
    size_t previous;
    size_t next;
  };
  constexpr size_t kNone = ~size_t{0};
  using Entry = std::pair<uint32_t, size_t>;
  std::vector<Node> nodes(word.size());
  std::vector<Entry> entries;
  for (size_t i = 0; i < word.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(word[i]);
    nodes[i] = {byte_ids_[byte], i == 0 ? kNone : i - 1, i + 1 == word.size() ? kNone : i + 1};
    if (i + 1 == word.size()) break;
    const uint32_t rank = byte_ranks_[byte * 256 + static_cast<uint8_t>(word[i + 1])];
    if (rank != kNoMerge) entries.emplace_back(rank, i);
  }
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> queue(std::greater<Entry>(), std::move(entries));
  while (!queue.empty()) {
    const auto [rank, place] = queue.top();
    queue.pop();
    Node& node = nodes[place];
    if (node.token < 0 || node.next == kNone || RankOf(node.token, nodes[node.next].token) != rank) continue;
    Node& merged = nodes[node.next];
    node.token = results_[rank];
    merged.token = -1;
    node.next = merged.next;
    if (node.next != kNone) {
      nodes[node.next].previous = place;
      const uint32_t after = RankOf(node.token, nodes[node.next].token);
      if (after != kNoMerge) queue.emplace(after, place);
    }
    if (node.previous != kNone) {
      const uint32_t before = RankOf(nodes[node.previous].token, node.token);
      if (before != kNoMerge) queue.emplace(before, node.previous);
    }
  }
  for (size_t i = 0; i != kNone; i = nodes[i].next) ids->push_back(nodes[i].token);
}

void WordEncoder::Cache::Encode(const WordEncoder& encoder, std::string_view word, std::vector<int32_t>* ids) {
  if (const int32_t id = encoder.WholeWord(word); id >= 0) {
    ids->push_back(id);
    return;
  }
  if (word.size() > kCachedWordBytesMax) {
    encoder.Merge(word, ids);
    return;
  }
  if (slots_.empty()) slots_.resize(kCacheSlotsFirst);
  const uint64_t hash = HashWord(word.data(), word.size());
  size_t slot = hash & (slots_.size() - 1);
  for (; slots_[slot].word != nullptr; slot = (slot + 1) & (slots_.size() - 1)) {
    const Slot& known = slots_[slot];
    if (known.hash == hash && known.bytes == word.size() && std::memcmp(known.word, word.data(), word.size()) == 0) {
      ids->insert(ids->end(), &pool_[known.ids_begin], &pool_[known.ids_begin] + known.ids);
      return;
    }
  }
  const size_t begin = ids->size();
  encoder.Merge(word, ids);
  if (used_ * 2 >= kCacheSlotsMax) return;
  const uint32_t made = static_cast<uint32_t>(ids->size() - begin);
  slots_[slot] = {hash, word.data(), static_cast<uint32_t>(word.size()), made, pool_.size()};
  pool_.insert(pool_.end(), ids->begin() + static_cast<ptrdiff_t>(begin), ids->end());
  if (++used_ * 2 > slots_.size()) Grow();
}

void WordEncoder::Cache::Grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& known : old) {
    if (known.word == nullptr) continue;
    size_t slot = known.hash & (slots_.size() - 1);
    while (slots_[slot].word != nullptr) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = known;
  }
}

}  // namespace vlm::data
