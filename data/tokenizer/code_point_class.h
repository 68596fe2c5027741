// What pre-tokenization needs to know of a code point, and reading code points from bytes.
//
// The classes are those of the Unicode version the reference `tokenizers` has (\p{L}, \p{N}, \s), in a
// table made by scripts/generate-unicode-tables.
#ifndef VLM_DATA_TOKENIZER_CODE_POINT_CLASS_H_
#define VLM_DATA_TOKENIZER_CODE_POINT_CLASS_H_

#include <array>
#include <cstdint>
#include <memory>

namespace vlm::data {

enum class CodePointClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3, kNewline = 4 };

struct ClassifiedCodePoint {
  CodePointClass kind;
  uint8_t bytes;  // length of the sequence, 1 to 4; 1 for a byte that begins no well-formed sequence
};

// Two-stage table over all code points; kNewline is \r and \n, kSpace every other \s. Immutable.
class CodePointClasses {
 public:
  // The one table, made at first use; thread-safe.
  static const CodePointClasses& Get();

  CodePointClass Of(uint32_t code_point) const {
    const uint32_t page = page_of_[code_point >> 8];
    return static_cast<CodePointClass>(pages_[page * 256 + (code_point & 255)]);
  }

  // The code point at `at`, which must be before `end`. Bytes of an ill-formed sequence (overlong forms,
  // surrogates and values above U+10FFFF included) are kOther, one at a time.
  ClassifiedCodePoint Read(const char* at, const char* end) const {
    const uint8_t first = static_cast<uint8_t>(*at);
    if (first < 0x80) return {static_cast<CodePointClass>(pages_[first]), 1};
    return ReadMultiByte(at, end);
  }

 private:
  static constexpr uint32_t kPages = 0x110000 >> 8;
  static constexpr uint32_t kUniquePagesMax = 256;

  CodePointClasses();
  ClassifiedCodePoint ReadMultiByte(const char* at, const char* end) const;

  std::array<uint8_t, kPages> page_of_;
  std::array<uint8_t, kUniquePagesMax * 256> pages_;  // page 0 is the first 256 code points
};

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_CODE_POINT_CLASS_H_
