#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "data/tokenizer/added_token_matcher.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/word_encoder.h"

namespace vlm::data {
namespace {

using EntryIds = std::unordered_map<std::string_view, int32_t>;

// Ids a byte of text makes on average, for reserving; English makes about a quarter.
constexpr size_t kBytesPerId = 3;

absl::Status Bad(std::string message) { return absl::InvalidArgumentError("tokenizer: " + std::move(message)); }

std::string At(std::string_view list, size_t index) { return std::string(list) + "[" + std::to_string(index) + "]"; }

// Added tokens are in order of id, equal their entry of the vocabulary where they have one, and continue
// its numbering where they have none.
absl::Status CheckAddedTokens(const BytePairModel& model, const EntryIds& entries) {
  int32_t next_new = static_cast<int32_t>(model.vocabulary.size());
  int32_t previous = -1;
  std::unordered_set<std::string_view> seen;
  for (size_t i = 0; i < model.added_tokens.size(); ++i) {
    const AddedToken& token = model.added_tokens[i];
    const std::string place = At("added_tokens", i) + " (" + token.content + ")";
    if (token.content.empty() || token.content.size() > kAddedTokenBytesMax || !IsUtf8(token.content)) {
      return Bad("content must be 1 to " + std::to_string(kAddedTokenBytesMax) + " bytes of UTF-8: " + place);
    }
    if (!seen.insert(token.content).second) return Bad("content is given twice: " + place);
    if (token.id <= previous) return Bad("ids must ascend: " + place);
    previous = token.id;
    const auto entry = entries.find(token.content);
    const int32_t expected = entry != entries.end() ? entry->second : next_new++;
    if (token.id != expected) {
      return Bad("id must be " + std::to_string(expected) + " (its entry, or the next free id): " + place);
    }
    const std::optional<std::string> bytes = BytesOfEntry(token.content);
    if (entry != entries.end() && bytes.has_value() && *bytes != token.content) {
      return Bad("content is also the stand-in of other bytes: " + place);
    }
  }
  return absl::OkStatus();
}

// The id each merge makes, by rank.
absl::StatusOr<std::vector<int32_t>> MergeResults(const BytePairModel& model, const EntryIds& entries,
                                                  const std::vector<bool>& special) {
  if (model.merges.size() >= size_t{1} << kMergeRankBits) return Bad("too many merges");
  const auto is_entry = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < model.vocabulary.size(); };
  std::vector<int32_t> results;
  std::unordered_set<uint64_t> seen;
  for (size_t rank = 0; rank < model.merges.size(); ++rank) {
    const BytePairMerge& merge = model.merges[rank];
    if (!is_entry(merge.left) || !is_entry(merge.right)) return Bad("part is not an entry: " + At("merges", rank));
    const auto made = entries.find(model.vocabulary[merge.left] + model.vocabulary[merge.right]);
    if (made == entries.end()) return Bad("result is not an entry: " + At("merges", rank));
    if (special[made->second]) return Bad("result is a special token: " + At("merges", rank));
    const uint64_t pair = static_cast<uint64_t>(merge.left) << 32 | static_cast<uint64_t>(merge.right);
    if (!seen.insert(pair).second) return Bad("pair is given twice: " + At("merges", rank));
    results.push_back(made->second);
  }
  return results;
}

}  // namespace

Tokenizer::Tokenizer(BytePairModel model) : model_(std::move(model)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(BytePairModel model) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(model)));
  VLM_RETURN_IF_ERROR(tokenizer->Index());
  return tokenizer;
}

absl::Status Tokenizer::Index() {
  const size_t entries_count = model_.vocabulary.size();
  if (entries_count + model_.added_tokens.size() > static_cast<size_t>(kVocabularyEntriesMax)) {
    return Bad("more entries than " + std::to_string(kVocabularyEntriesMax));
  }
  EntryIds entries;
  for (size_t id = 0; id < entries_count; ++id) {
    if (!entries.emplace(model_.vocabulary[id], static_cast<int32_t>(id)).second) {
      return Bad("entry is given twice: " + model_.vocabulary[id]);
    }
  }
  VLM_RETURN_IF_ERROR(CheckAddedTokens(model_, entries));
  VLM_RETURN_IF_ERROR(IndexTokenBytes());
  VLM_ASSIGN_OR_RETURN(std::vector<int32_t> results, MergeResults(model_, entries, special_));
  words_ = std::make_unique<WordEncoder>(model_, token_bytes_, special_, std::move(results));
  matcher_ = std::make_unique<AddedTokenMatcher>(model_.added_tokens);
  return absl::OkStatus();
}

absl::Status Tokenizer::IndexTokenBytes() {
  const size_t entries_count = model_.vocabulary.size();
  const size_t ids = model_.added_tokens.empty()
                         ? entries_count
                         : std::max(entries_count, static_cast<size_t>(model_.added_tokens.back().id) + 1);
  token_bytes_.resize(ids);
  special_.resize(ids, false);
  for (const AddedToken& token : model_.added_tokens) {
    token_bytes_[token.id] = token.content;
    special_[token.id] = token.special;
  }
  std::vector<bool> has_byte(256, false);
  for (size_t id = 0; id < entries_count; ++id) {
    if (special_[id]) continue;
    std::optional<std::string> bytes = BytesOfEntry(model_.vocabulary[id]);
    if (!bytes.has_value() || bytes->empty()) {
      if (!token_bytes_[id].empty()) continue;  // an added token that is no sequence of bytes
      return Bad("entry is not in the byte alphabet: " + At("vocab", id) + " " + model_.vocabulary[id]);
    }
    if (bytes->size() == 1) has_byte[static_cast<uint8_t>((*bytes)[0])] = true;
    token_bytes_[id] = *std::move(bytes);
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (!has_byte[byte]) {
      return Bad("no ordinary entry for byte " + std::to_string(byte) + ", whose stand-in is " +
                 std::string(AlphabetCharacter(static_cast<uint8_t>(byte))));
    }
  }
  return absl::OkStatus();
}

// One encoding of one text: cuts added tokens out, group by group, and the rest into words.
class Tokenizer::Encoding {
 public:
  Encoding(const Tokenizer& tokenizer, bool with_special, std::vector<int32_t>* ids)
      : tokenizer_(tokenizer), with_special_(with_special), ids_(ids) {}

  void Encode(std::string_view text, int group) {
    if (group == AddedTokenMatcher::kGroups) return EncodeWords(text);
    const AddedTokenMatcher& matcher = *tokenizer_.matcher_;
    if (!with_special_ && matcher.HasOnlySpecial(group)) return Encode(text, group + 1);
    size_t done = 0;
    size_t from = 0;
    while (const auto match = matcher.Find(group, text, from)) {
      from = match->end;
      if (match->token->special && !with_special_) continue;
      Encode(text.substr(done, match->begin - done), group + 1);
      ids_->push_back(match->token->id);
      done = match->end;
    }
    Encode(text.substr(done), group + 1);
  }

 private:
  void EncodeWords(std::string_view text) {
    WordSplitter splitter(tokenizer_.model_.pattern, text);
    std::string_view word;
    while (splitter.Next(&word)) cache_.Encode(*tokenizer_.words_, word, ids_);
  }

  const Tokenizer& tokenizer_;
  const bool with_special_;
  std::vector<int32_t>* const ids_;
  WordEncoder::Cache cache_;
};

std::vector<int32_t> Tokenizer::EncodeOrdinary(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / kBytesPerId + 1);
  AppendOrdinary(text, &ids);
  return ids;
}

void Tokenizer::AppendOrdinary(std::string_view text, std::vector<int32_t>* ids) const {
  Encoding(*this, false, ids).Encode(text, 0);
}

std::vector<int32_t> Tokenizer::EncodeWithSpecial(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / kBytesPerId + 1);
  Encoding(*this, true, &ids).Encode(text, 0);
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, SpecialTokens special_tokens) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      return Bad("id outside the vocabulary of " + std::to_string(vocab_size()) + " at position " + std::to_string(i) +
                 ": " + std::to_string(ids[i]));
    }
    if (special_tokens == SpecialTokens::kSkip && special_[ids[i]]) continue;
    text += token_bytes_[ids[i]];
  }
  return text;
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view added_token) const {
  const AddedToken* token = matcher_->FindExact(added_token);
  return token == nullptr ? std::nullopt : std::optional<int32_t>(token->id);
}

bool Tokenizer::IsSpecial(int32_t id) const { return id >= 0 && id < vocab_size() && special_[id]; }

}  // namespace vlm::data
