// Pre-tokenization: text is cut into words, and byte pairs are merged inside words only.
//
// The three cuts are hand-written equivalents of the regular expressions that byte-level tokenizers ship,
// on the letters, numbers and spaces of the Unicode version of the reference `tokenizers` (see
// code_point_class.h). Invalid UTF-8 is defined too: each byte that does not belong to a well-formed
// sequence stands alone and counts as neither letter, number nor space, so nothing is lost or replaced.
#ifndef VLM_DATA_TOKENIZER_SPLIT_PATTERN_H_
#define VLM_DATA_TOKENIZER_SPLIT_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/status.h"

namespace vlm::data {

// The values are written to word-count files: never renumber.
enum class SplitPattern : uint8_t {
  kGpt2 = 0,   // GPT-2's, which is also the one built into the ByteLevel pre-tokenizer
  kGpt4 = 1,   // cl100k: contractions of any case, numbers in groups of up to three
  kQwen2 = 2,  // Qwen2 and Qwen2.5: as kGpt4, each number character alone
};

// "gpt2", "gpt4" or "qwen2", as in a job file.
std::string_view PatternName(SplitPattern pattern);
// INVALID_ARGUMENT for any other name; the message lists the known ones.
absl::StatusOr<SplitPattern> PatternFromName(std::string_view name);

// The regular expression as it stands in a tokenizer.json.
std::string_view PatternRegex(SplitPattern pattern);
// The pattern whose words equal those of `regex`; nullopt for an expression that is not one of the known.
std::optional<SplitPattern> PatternFromRegex(std::string_view regex);

// Walks over the words of one text, which must outlive it. The words, joined, are the text. Not thread-safe.
class WordSplitter {
 public:
  WordSplitter(SplitPattern pattern, std::string_view text);

  // Sets `word` to the next word, never empty; false at the end of the text. Linear time in all.
  bool Next(std::string_view* word);

 private:
  SplitPattern pattern_;
  const char* position_;
  const char* end_;
};

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_SPLIT_PATTERN_H_
