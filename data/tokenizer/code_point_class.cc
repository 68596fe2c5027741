#include "data/tokenizer/code_point_class.h"

#include <cstring>
#include <span>

#include "base/check.h"

namespace vlm::data {
namespace {

struct ClassRun {
  uint32_t first;  // the run lasts to the next run's first
  CodePointClass kind;
};

// NOLINTBEGIN(readability-identifier-naming): one letter a cell keeps the tables below readable.
constexpr CodePointClass O = CodePointClass::kOther;
constexpr CodePointClass L = CodePointClass::kLetter;
constexpr CodePointClass N = CodePointClass::kNumber;
constexpr CodePointClass S = CodePointClass::kSpace;
constexpr CodePointClass R = CodePointClass::kNewline;
// NOLINTEND(readability-identifier-naming)

constexpr ClassRun kRuns[] = {
#include "data/tokenizer/code_point_class.inc"
};

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

}  // namespace

const CodePointClasses& CodePointClasses::Get() {
  static const CodePointClasses classes;
  return classes;
}

CodePointClasses::CodePointClasses() {
  pages_.fill(0);
  uint32_t unique_pages = 0;
  size_t run = 0;
  for (uint32_t page = 0; page < kPages; ++page) {
    std::array<uint8_t, 256> kinds;
    for (uint32_t low = 0; low < 256; ++low) {
      while (run + 1 < std::size(kRuns) && kRuns[run + 1].first <= page * 256 + low) ++run;
      kinds[low] = static_cast<uint8_t>(kRuns[run].kind);
    }
    uint32_t found = 0;
    while (found < unique_pages && std::memcmp(&pages_[found * 256], kinds.data(), 256) != 0) ++found;
    VLM_CHECK(found < kUniquePagesMax, "more distinct pages of Unicode classes than the table holds");
    if (found == unique_pages) std::memcpy(&pages_[unique_pages++ * 256], kinds.data(), 256);
    page_of_[page] = static_cast<uint8_t>(found);
  }
}

ClassifiedCodePoint CodePointClasses::ReadMultiByte(const char* at, const char* end) const {
  constexpr ClassifiedCodePoint kIllFormed = {CodePointClass::kOther, 1};
  const uint32_t first = static_cast<uint8_t>(at[0]);
  const ptrdiff_t left = end - at;
  if (first < 0xE0) {
    if (first < 0xC2 || left < 2 || !IsContinuation(at[1])) return kIllFormed;
    return {Of((first & 0x1F) << 6 | (at[1] & 0x3F)), 2};
  }
  if (first < 0xF0) {
    if (left < 3 || !IsContinuation(at[1]) || !IsContinuation(at[2])) return kIllFormed;
    const uint32_t code_point = (first & 0x0F) << 12 | (at[1] & 0x3F) << 6 | (at[2] & 0x3F);
    if (code_point < 0x800 || (code_point >= 0xD800 && code_point < 0xE000)) return kIllFormed;
    return {Of(code_point), 3};
  }
  if (first > 0xF4 || left < 4) return kIllFormed;
  if (!IsContinuation(at[1]) || !IsContinuation(at[2]) || !IsContinuation(at[3])) return kIllFormed;
  const uint32_t code_point = (first & 0x07) << 18 | (at[1] & 0x3F) << 12 | (at[2] & 0x3F) << 6 | (at[3] & 0x3F);
  if (code_point < 0x10000 || code_point > 0x10FFFF) return kIllFormed;
  return {Of(code_point), 4};
}

}  // namespace vlm::data
