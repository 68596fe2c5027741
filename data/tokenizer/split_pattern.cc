#include "data/tokenizer/split_pattern.h"

#include <array>
#include <cstring>
#include <string>

#include "data/tokenizer/code_point_class.h"

namespace vlm::data {
namespace {

using Kind = CodePointClass;

struct Pattern {
  SplitPattern pattern;
  std::string_view name;
  std::string_view regex;
};

constexpr std::array<Pattern, 3> kPatterns = {{
    {SplitPattern::kGpt2, "gpt2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {SplitPattern::kGpt4, "gpt4",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {SplitPattern::kQwen2, "qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
}};

// Other spellings in published files that match the same words.
constexpr std::array<Pattern, 1> kSpellings = {{
    {SplitPattern::kGpt4, "gpt4",
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|)"
     R"(\s*[\r\n]|\s+(?!\S)|\s+)"},
}};

bool IsSpace(Kind kind) { return kind == Kind::kSpace || kind == Kind::kNewline; }

// The rules of the expressions, one function per kind of alternative. `at` is always before `end`; each
// returns the end of the word that begins at `at`.
class Cutter {
 public:
  Cutter(const CodePointClasses& classes, const char* end) : classes_(classes), end_(end) {}

  const char* Gpt2(const char* at) const {
    if (*at == '\'') {
      if (const char* after = Contraction(at, false); after != at) return after;
    }
    ClassifiedCodePoint point = classes_.Read(at, end_);
    if (!IsSpace(point.kind)) return Run(at + point.bytes, point.kind);
    if (*at == ' ' && at + 1 < end_) {
      point = classes_.Read(at + 1, end_);
      if (!IsSpace(point.kind)) return Run(at + 1 + point.bytes, point.kind);
    }
    return Spaces(at, SpaceRunEnd(at));
  }

  const char* Gpt4(const char* at, int digits_max) const {
    if (*at == '\'') {
      if (const char* after = Contraction(at, true); after != at) return after;
    }
    const ClassifiedCodePoint point = classes_.Read(at, end_);
    const char* next = at + point.bytes;
    if (point.kind == Kind::kLetter) return Run(next, Kind::kLetter);
    if (point.kind == Kind::kNumber) return Digits(next, digits_max - 1);
    if (point.kind == Kind::kNewline) return SpacesOrLines(at);
    if (next < end_) {
      const ClassifiedCodePoint second = classes_.Read(next, end_);
      if (second.kind == Kind::kLetter) return Run(next + second.bytes, Kind::kLetter);
      if (*at == ' ' && second.kind == Kind::kOther) return Symbols(next + second.bytes);
    }
    return point.kind == Kind::kOther ? Symbols(next) : SpacesOrLines(at);
  }

 private:
  const char* Run(const char* at, Kind kind) const {
    while (at < end_) {
      const ClassifiedCodePoint point = classes_.Read(at, end_);
      if (point.kind != kind) break;
      at += point.bytes;
    }
    return at;
  }

  const char* Digits(const char* at, int more_max) const {
    for (; more_max > 0 && at < end_; --more_max) {
      const ClassifiedCodePoint point = classes_.Read(at, end_);
      if (point.kind != Kind::kNumber) break;
      at += point.bytes;
    }
    return at;
  }

  const char* Symbols(const char* at) const {
    at = Run(at, Kind::kOther);
    while (at < end_ && (*at == '\r' || *at == '\n')) ++at;
    return at;
  }

  const char* SpaceRunEnd(const char* at) const {
    while (at < end_) {
      const ClassifiedCodePoint point = classes_.Read(at, end_);
      if (!IsSpace(point.kind)) break;
      at += point.bytes;
    }
    return at;
  }

  // \s+(?!\S)|\s+ : spaces before other text leave their last one to it.
  const char* Spaces(const char* at, const char* run_end) const {
    if (run_end == end_) return run_end;
    const char* last = run_end - 1;
    while ((static_cast<uint8_t>(*last) & 0xC0) == 0x80) --last;
    return last == at ? run_end : last;
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+
  const char* SpacesOrLines(const char* at) const {
    const char* run_end = SpaceRunEnd(at);
    for (const char* after = run_end; after > at; --after) {
      if (after[-1] == '\r' || after[-1] == '\n') return after;
    }
    return Spaces(at, run_end);
  }

  // The end of a contraction that begins with the apostrophe at `at`; `at` when there is none. Of any
  // case also means U+017F, which folds to s.
  const char* Contraction(const char* at, bool any_case) const {
    const auto letter = [&](int index) -> char {
      if (end_ - at <= index) return '\0';
      const char byte = at[index];
      return any_case && byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + 32) : byte;
    };
    const char second = letter(1);
    if (second == 's' || second == 't' || second == 'm' || second == 'd') return at + 2;
    const char third = letter(2);
    if ((second == 'r' && third == 'e') || (second == 'v' && third == 'e') || (second == 'l' && third == 'l')) {
      return at + 3;
    }
    if (any_case && second == '\xC5' && third == '\xBF') return at + 3;
    return at;
  }

  const CodePointClasses& classes_;
  const char* end_;
};

}  // namespace

std::string_view PatternName(SplitPattern pattern) { return kPatterns[static_cast<size_t>(pattern)].name; }

absl::StatusOr<SplitPattern> PatternFromName(std::string_view name) {
  for (const Pattern& known : kPatterns) {
    if (known.name == name) return known.pattern;
  }
  return absl::InvalidArgumentError("unknown split pattern; use gpt2, gpt4 or qwen2; got: " + std::string(name));
}

std::string_view PatternRegex(SplitPattern pattern) { return kPatterns[static_cast<size_t>(pattern)].regex; }

std::optional<SplitPattern> PatternFromRegex(std::string_view regex) {
  for (const Pattern& known : kPatterns) {
    if (known.regex == regex) return known.pattern;
  }
  for (const Pattern& known : kSpellings) {
    if (known.regex == regex) return known.pattern;
  }
  return std::nullopt;
}

WordSplitter::WordSplitter(SplitPattern pattern, std::string_view text)
    : pattern_(pattern), position_(text.data()), end_(text.data() + text.size()) {}

bool WordSplitter::Next(std::string_view* word) {
  if (position_ == end_) return false;
  const Cutter cutter(CodePointClasses::Get(), end_);
  const char* after = position_;
  switch (pattern_) {
    case SplitPattern::kGpt2:
      after = cutter.Gpt2(position_);
      break;
    case SplitPattern::kGpt4:
      after = cutter.Gpt4(position_, 3);
      break;
    case SplitPattern::kQwen2:
      after = cutter.Gpt4(position_, 1);
      break;
  }
  *word = std::string_view(position_, static_cast<size_t>(after - position_));
  position_ = after;
  return true;
}

}  // namespace vlm::data
