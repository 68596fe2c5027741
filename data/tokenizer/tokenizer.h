// Text to token ids and back, equal to Hugging Face `tokenizers` on the same tokenizer.json.
#ifndef VLM_DATA_TOKENIZER_TOKENIZER_H_
#define VLM_DATA_TOKENIZER_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "data/tokenizer/byte_pair_model.h"

namespace vlm::data {

class AddedTokenMatcher;
class WordEncoder;

// Largest tokenizer.json read, and deepest nesting in it: checked before parsing. The largest published
// ones are about 35 MB.
inline constexpr size_t kTokenizerJsonBytesMax = size_t{128} << 20;
inline constexpr int kTokenizerJsonDepthMax = 16;

enum class SpecialTokens { kKeep, kSkip };

// Immutable, thread-safe.
class Tokenizer {
 public:
  // INVALID_ARGUMENT, naming the entry: ids not dense, duplicate tokens, a missing byte, a merge whose
  // parts or result are not entries, a repeated merge, added tokens out of order.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(BytePairModel model);

  // Reads a tokenizer.json of a byte-level byte-pair model. INVALID_ARGUMENT, naming the field, for
  // malformed JSON and for everything that is present and not honoured (normalizers, templates, other
  // split patterns, dropout, prefix spaces...). RESOURCE_EXHAUSTED for a file over the limits above.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // A tokenizer.json; `tokenizers` opens it with equal ids. Equal models give equal bytes.
  std::string ToJson() const;

  // The ids of `text`, in which a special token's name is text like any other: what users wrote can never
  // become a control token. Equals `tokenizers` with encode_special_tokens = True. Any bytes are
  // encodable; Decode gives them back. O(bytes log bytes).
  std::vector<int32_t> EncodeOrdinary(std::string_view text) const;
  // The same with special tokens recognised: for templates and other trusted text only.
  std::vector<int32_t> EncodeWithSpecial(std::string_view text) const;
  // EncodeOrdinary, appended to `ids`.
  void AppendOrdinary(std::string_view text, std::vector<int32_t>* ids) const;

  // The bytes of `ids`: raw, so a cut inside a character gives invalid UTF-8 here. INVALID_ARGUMENT, with
  // position and id, for an id outside the vocabulary.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     SpecialTokens special_tokens = SpecialTokens::kKeep) const;

  // The id of an added token by its content; nullopt when there is none.
  std::optional<int32_t> TokenId(std::string_view added_token) const;
  bool IsSpecial(int32_t id) const;

  // Number of ids, added tokens included: valid ids are [0, vocab_size).
  int32_t vocab_size() const { return static_cast<int32_t>(token_bytes_.size()); }
  const BytePairModel& model() const { return model_; }

 private:
  class Encoding;

  explicit Tokenizer(BytePairModel model);

  absl::Status Index();
  absl::Status IndexTokenBytes();

  BytePairModel model_;
  std::vector<std::string> token_bytes_;  // by id
  std::vector<bool> special_;             // by id
  std::unique_ptr<const WordEncoder> words_;
  std::unique_ptr<const AddedTokenMatcher> matcher_;
};

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_TOKENIZER_H_
