#include "data/tokenizer/word_counts.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/digest.h"
#include "data/tokenizer/word_hash.h"

namespace vlm::data {
namespace {

constexpr std::string_view kMagic = "VLMWORDS";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 8 + 4 + 4 + 8;
constexpr size_t kDigestBytes = 32;
constexpr size_t kEntryBytesMin = 4 + 1 + 8;
constexpr size_t kFirstSlots = 1024;
constexpr size_t kBlockBytes = size_t{1} << 20;

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum < a ? std::numeric_limits<uint64_t>::max() : sum;
}

// Numbers are little-endian.
template <typename Number>
void AppendNumber(Number number, std::string* out) {
  for (size_t i = 0; i < sizeof(Number); ++i) out->push_back(static_cast<char>(number >> (8 * i)));
}

template <typename Number>
Number ReadNumber(std::string_view bytes, size_t at) {
  Number number = 0;
  for (size_t i = 0; i < sizeof(Number); ++i) {
    number |= static_cast<Number>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  }
  return number;
}

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError("word-count file is damaged; count its shard again: " + std::string(what));
}

}  // namespace

WordCounts::WordCounts(SplitPattern pattern) : pattern_(pattern), slots_(kFirstSlots, 0) {}

void WordCounts::Add(std::string_view text) {
  WordSplitter splitter(pattern_, text);
  std::string_view word;
  while (splitter.Next(&word)) AddWord(word, 1);
}

void WordCounts::AddWord(std::string_view word, uint64_t count) {
  if (word.empty() || count == 0) return;
  VLM_CHECK(word.size() <= std::numeric_limits<uint32_t>::max(), "a word is longer than 4 GiB");
  total_words_ = SaturatingAdd(total_words_, count);
  const uint64_t hash = HashWord(word.data(), word.size());
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  size_t slot = hash & (slots_.size() - 1);
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    Entry& entry = entries_[slots_[slot] - 1];
    if (entry.tag == tag && entry.length == word.size() && std::memcmp(entry.word, word.data(), word.size()) == 0) {
      entry.count = SaturatingAdd(entry.count, count);
      return;
    }
  }
  VLM_CHECK(entries_.size() < std::numeric_limits<uint32_t>::max(), "more than 2^32 - 1 unique words");
  entries_.push_back({Store(word), static_cast<uint32_t>(word.size()), tag, count});
  slots_[slot] = static_cast<uint32_t>(entries_.size());
  if (entries_.size() * 2 > slots_.size()) Grow();
}

void WordCounts::Grow() {
  std::vector<uint32_t> slots(slots_.size() * 2, 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = HashWord(entries_[i].word, entries_[i].length) & (slots.size() - 1);
    while (slots[slot] != 0) slot = (slot + 1) & (slots.size() - 1);
    slots[slot] = static_cast<uint32_t>(i + 1);
  }
  slots_ = std::move(slots);
}

const char* WordCounts::Store(std::string_view word) {
  if (bytes_.empty() || bytes_.back().capacity() - bytes_.back().size() < word.size()) {
    bytes_.emplace_back();
    bytes_.back().reserve(std::max(kBlockBytes, word.size()));
  }
  std::string& block = bytes_.back();
  block.append(word);  // within the reserved capacity: earlier words stay where they are
  return block.data() + block.size() - word.size();
}

absl::Status WordCounts::Merge(const WordCounts& other) {
  if (other.pattern_ != pattern_) {
    return absl::InvalidArgumentError(
        "word counts of different split patterns cannot be merged: " + std::string(PatternName(pattern_)) + " and " +
        std::string(PatternName(other.pattern_)));
  }
  // By index: merging with itself doubles the counts and adds no entry.
  for (size_t i = 0, size = other.entries_.size(); i < size; ++i) {
    const Entry entry = other.entries_[i];
    AddWord({entry.word, entry.length}, entry.count);
  }
  return absl::OkStatus();
}

std::vector<WordCount> WordCounts::Sorted() const {
  std::vector<WordCount> words;
  words.reserve(entries_.size());
  for (const Entry& entry : entries_) words.push_back({{entry.word, entry.length}, entry.count});
  std::sort(words.begin(), words.end(), [](const WordCount& a, const WordCount& b) { return a.word < b.word; });
  return words;
}

std::string WordCounts::Serialize() const {
  std::string out(kMagic);
  AppendNumber(kVersion, &out);
  AppendNumber(static_cast<uint32_t>(pattern_), &out);
  AppendNumber(static_cast<uint64_t>(entries_.size()), &out);
  for (const WordCount& word : Sorted()) {
    AppendNumber(static_cast<uint32_t>(word.word.size()), &out);
    out.append(word.word);
    AppendNumber(word.count, &out);
  }
  const Digest digest = Sha256Of(std::string_view(out));
  out.append(reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size());
  return out;
}

absl::StatusOr<WordCounts> WordCounts::Parse(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes + kDigestBytes) return Malformed("too short");
  if (bytes.substr(0, kMagic.size()) != kMagic) return Malformed("it does not begin with VLMWORDS");
  if (const uint32_t version = ReadNumber<uint32_t>(bytes, 8); version != kVersion) {
    return Malformed("unknown version " + std::to_string(version));
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kDigestBytes);
  const Digest digest = Sha256Of(body);
  if (std::memcmp(digest.bytes.data(), bytes.data() + body.size(), kDigestBytes) != 0) {
    return Malformed("its digest does not match its contents");
  }
  const uint32_t pattern = ReadNumber<uint32_t>(bytes, 12);
  if (pattern > static_cast<uint32_t>(SplitPattern::kQwen2)) {
    return Malformed("unknown split pattern " + std::to_string(pattern));
  }
  const uint64_t count = ReadNumber<uint64_t>(bytes, 16);
  if (count > (body.size() - kHeaderBytes) / kEntryBytesMin) return Malformed("more words than bytes");
  WordCounts counts(static_cast<SplitPattern>(pattern));
  size_t at = kHeaderBytes;
  std::string_view previous;
  for (uint64_t i = 0; i < count; ++i) {
    if (body.size() - at < kEntryBytesMin) return Malformed("cut short at word " + std::to_string(i));
    const uint64_t length = ReadNumber<uint32_t>(body, at);
    if (length > body.size() - at - 12) return Malformed("word longer than the file: word " + std::to_string(i));
    const std::string_view word = body.substr(at + 4, length);
    const uint64_t occurrences = ReadNumber<uint64_t>(body, at + 4 + length);
    if (word <= previous) return Malformed("words not ascending at word " + std::to_string(i));
    if (occurrences == 0) return Malformed("count of zero at word " + std::to_string(i));
    counts.AddWord(word, occurrences);
    previous = word;
    at += 12 + length;
  }
  if (at != body.size()) return Malformed("bytes after the last word");
  return counts;
}

}  // namespace vlm::data
