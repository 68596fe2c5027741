#include "corpora.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "base/file_system.h"

namespace vlm::data {
namespace {

constexpr std::string_view kSyllables[] = {"the", "re", "in", "on", "er", "an", "ti", "es", "en", "at", "ed", "nd",
                                           "to",  "or", "ea", "is", "it", "ar", "te", "se", "hi", "of", "st", "ng"};
constexpr std::string_view kJoins[] = {" ",  " ",   " ",    " ",  " ",  " ",  ", ",
                                       ". ", "'s ", "'ll ", "\n", " (", ") ", " 42 "};
constexpr std::string_view kChineseMarks[] = {"，", "。", "、", "！", "\n"};
constexpr uint32_t kEmoji[] = {0x1F600, 0x1F44D, 0x2764, 0xFE0F, 0x200D, 0x1F3FD, 0x1F1E9, 0x1F1EA, 0x20, 0x61};

// Pieces that sit on the borders of the patterns' classes and rules.
constexpr std::string_view kPieces[] = {
    "a",
    "Z",
    "hello",
    "0",
    "7",
    "1234",
    ".",
    "!?",
    "--",
    "'",
    "'s",
    "'S",
    "'t",
    "'re",
    "'RE",
    "'vE",
    "'m",
    "'LL",
    "'d",
    "''",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\v",
    "\f",
    "_",
    "$",
    "é",
    "e\u0301",
    "\u0301",
    "\u00A0",
    "\u0085",
    "\u3000",
    "\u2028",
    "\u2003",
    "\u200B",
    "\uFEFF",
    "\u017F",
    "'\u017F",
    "\u212A",
    "²",
    "½",
    "٣",
    "Ⅷ",
    "〇",
    "㊿",
    "中",
    "文字",
    "한국어",
    "ひらがな",
    "ไทย",
    "नमस्ते",
    "עברית",
    "😀",
    "👍🏽",
    "\U0001F1E9\U0001F1EA",
    "\U00010400",
    "\U0001D7D8",
    "\U000E0100",
    "\u0378",
    "\uE000",
    "\uFFFE",
    "\U0010FFFF",
    "<|im_start|>",
    "<|image|>",
    "<|im",
    "|>",
    "<|im_end|><|im_end|>",
    std::string_view("\0x", 2),
};

template <typename Array>
auto Pick(const Array& array, Rng* rng) {
  return array[rng->Below(std::size(array))];
}

// Low numbers much more often than high ones, as words of a language are.
uint64_t Skewed(uint64_t bound, Rng* rng) {
  const double uniform = rng->Uniform();
  return static_cast<uint64_t>(uniform * uniform * uniform * static_cast<double>(bound));
}

}  // namespace

void AppendUtf8(uint32_t code_point, std::string* text) {
  const auto tail = [&](int shift) { text->push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F))); };
  if (code_point < 0x80) {
    text->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    text->push_back(static_cast<char>(0xC0 | code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    text->push_back(static_cast<char>(0xE0 | code_point >> 12));
    tail(6);
    tail(0);
  } else {
    text->push_back(static_cast<char>(0xF0 | code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

Documents EnglishLikeText(RngKey key, int documents) {
  Rng rng(key);
  std::vector<std::string> words(3000);
  for (std::string& word : words) {
    for (uint64_t i = 0, syllables = 1 + rng.Below(4); i < syllables; ++i) word += Pick(kSyllables, &rng);
    if (rng.Below(12) == 0) word[0] = static_cast<char>(word[0] - 32);
  }
  Documents texts(documents);
  for (std::string& text : texts) {
    for (int i = 0; i < 200; ++i) {
      text += words[Skewed(words.size(), &rng)];
      text += Pick(kJoins, &rng);
    }
  }
  return texts;
}

Documents ChineseLikeText(RngKey key, int documents) {
  Rng rng(key);
  Documents texts(documents);
  for (std::string& text : texts) {
    for (int i = 0; i < 200; ++i) {
      AppendUtf8(0x4E00 + static_cast<uint32_t>(Skewed(2000, &rng)), &text);
      if (rng.Below(9) == 0) text += Pick(kChineseMarks, &rng);
    }
  }
  return texts;
}

Documents EmojiText(RngKey key, int documents) {
  Rng rng(key);
  Documents texts(documents);
  for (std::string& text : texts) {
    for (int i = 0; i < 100; ++i) AppendUtf8(Pick(kEmoji, &rng), &text);
  }
  return texts;
}

Documents SourceCode() {
  const std::string folder = std::string(VLM_SOURCE_DIR) + "/data/tokenizer";
  const auto names = PosixFileSystem()->List(folder);
  VLM_CHECK(names.ok(), names.status().ToString());
  Documents texts;
  for (const std::string& name : *names) {
    if (!name.ends_with(".cc") && !name.ends_with(".h")) continue;
    auto text = ReadFile(PosixFileSystem(), folder + "/" + name, 1 << 20);
    VLM_CHECK(text.ok(), text.status().ToString());
    texts.push_back(*std::move(text));
  }
  return texts;
}

Documents FewLetters(RngKey key, int documents) {
  Rng rng(key);
  Documents texts(documents);
  for (std::string& text : texts) {
    for (int word = 0; word < 60; ++word) {
      for (uint64_t i = 0, letters = 1 + rng.Below(14); i < letters; ++i) {
        text.push_back(static_cast<char>('a' + Skewed(3, &rng)));
      }
      text.push_back(' ');
    }
  }
  return texts;
}

Documents NastyStrings(RngKey key, int count) {
  Rng rng(key);
  Documents texts(count);
  for (std::string& text : texts) {
    for (uint64_t i = 0, pieces = rng.Below(24); i < pieces; ++i) {
      if (rng.Below(8) != 0) {
        text += Pick(kPieces, &rng);
        continue;
      }
      uint32_t code_point = static_cast<uint32_t>(rng.Below(rng.Below(2) == 0 ? 0x3000 : 0x110000));
      if (code_point >= 0xD800 && code_point < 0xE000) code_point -= 0x1000;
      AppendUtf8(code_point, &text);
    }
  }
  return texts;
}

}  // namespace vlm::data
