#include "base/utf8.h"

#include <gtest/gtest.h>

namespace vlm {
namespace {

TEST(Utf8Test, ValidTextThatFitsIsUnchanged) {
  const std::string text = "plain, na\xc3\xafve, \xe4\xb8\xad\xe6\x96\x87, \xf0\x9f\x99\x82, \xf4\x8f\xbf\xbf";
  EXPECT_EQ(CutUtf8(text, text.size()), text);
  EXPECT_EQ(CutUtf8("", 10), "");
}

TEST(Utf8Test, ACutNeverSplitsACharacter) {
  EXPECT_EQ(CutUtf8("ab\xc3\xa9", 3), "ab");
  EXPECT_EQ(CutUtf8("ab\xc3\xa9", 4), "ab\xc3\xa9");
  EXPECT_EQ(CutUtf8("\xf0\x9f\x99\x82x", 3), "");
  EXPECT_EQ(CutUtf8("abc", 2), "ab");
  EXPECT_EQ(CutUtf8("abc", 0), "");
}

TEST(Utf8Test, BytesThatAreNoCharacterBecomeQuestionMarks) {
  EXPECT_EQ(CutUtf8("a\xff z", 10), "a? z");
  EXPECT_EQ(CutUtf8("\xc0\x80", 10), "??") << "overlong";
  EXPECT_EQ(CutUtf8("\xe0\x80\x80", 10), "???") << "overlong";
  EXPECT_EQ(CutUtf8("\xed\xa0\x80", 10), "???") << "a surrogate";
  EXPECT_EQ(CutUtf8("\xf4\x90\x80\x80", 10), "????") << "above U+10FFFF";
  EXPECT_EQ(CutUtf8("\xe4\xb8", 10), "??") << "cut short";
  EXPECT_EQ(CutUtf8("\xe4\xb8z", 10), "??z");
}

}  // namespace
}  // namespace vlm
