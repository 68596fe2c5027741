#include "spec/plain_yaml.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "spec/compose.h"
#include "spec/yaml_node.h"

namespace vlm::spec {
namespace {

const auto& Source() {
  static const auto* const source = new std::shared_ptr<const std::string>(std::make_shared<const std::string>("f"));
  return *source;
}

// The tree with every place, as text.
void Write(const YamlNode& node, std::string* out) {
  const auto place = [](const Place& at) { return "@" + std::to_string(at.line) + ":" + std::to_string(at.column); };
  *out += std::to_string(static_cast<int>(node.kind)) + (node.quoted ? "q" : "") + place(node.at) + "'" + node.scalar;
  for (const YamlNode& item : node.items) Write(item, &(*out += "\n- "));
  for (const YamlEntry& entry : node.entries) Write(entry.value, &(*out += "\n" + entry.key + place(entry.at) + ": "));
  *out += ";";
}

std::string Text(const YamlNode& node) {
  std::string out;
  Write(node, &out);
  return out;
}

// False when the text is not plain.
bool ExpectSameTree(const std::string& text) {
  const std::optional<YamlNode> plain = ReadPlainYaml(text, Source());
  if (!plain) return false;
  Diagnostics diagnostics;
  const std::optional<YamlNode> any = ReadAnyYaml(text, "f", &diagnostics);
  EXPECT_TRUE(any.has_value() && diagnostics.empty()) << diagnostics.ToString() << "\n" << text;
  if (any) EXPECT_EQ(Text(*plain), Text(*any)) << text;
  return true;
}

std::vector<std::string> ComposedExamples() {
  std::vector<std::string> composed;
  for (const auto& file : std::filesystem::recursive_directory_iterator(VLM_SOURCE_DIR "/examples")) {
    if (file.path().extension() != ".yaml") continue;
    Diagnostics diagnostics;
    auto text = Compose(PosixFileSystem(), file.path().string(), {}, &diagnostics);
    if (text) composed.push_back(*std::move(text));
  }
  return composed;
}

constexpr char kSmall[] =
    "a: 1  # x\n"
    "b:\n"
    "  c: [x, \"y z\", null]\n"
    "  d: {}\n"
    "  e:\n"
    "    - f: \"q \\\" \\\\ ü\"  # default\n"
    "      g: []\n"
    "    - -1.5\n"
    "h: null\n";

TEST(PlainYamlTest, WhatRenderWritesIsPlainAndReadsAsWithTheLibrary) {
  const std::vector<std::string> examples = ComposedExamples();
  ASSERT_FALSE(examples.empty());
  for (const std::string& text : examples) EXPECT_TRUE(ExpectSameTree(text)) << text;
  EXPECT_TRUE(ExpectSameTree(kSmall));
}

TEST(PlainYamlTest, EveryPlaceAndKindOfValueIsTheLibrarys) {
  for (const char* text : {
           "a:\nb: 1\n",
           "a:\n  - b\n  -  c\n",
           "a: b\n\n  # far\n# near\nc: \"ü\"\n",
           "- a: 1\n  b: [\"ü\", c]\n- d\n",
           "  \na: x y  # z",
           "a: /b/c*.tar\nd: .5\n",
           "a:   # c\n  b: 1\n",
           "-   a:  1\n    b: 2\n",
           "a_b.c-d/e: \"\"\n",
           "a: \"null\"\nb: [null, \"~\"]\n",
           "a:\n  b:\n    c:\nd:\n",
           "a: +1\n",
           "a: -b\n",
           "a: [-1, .5, -x]\n",
       }) {
    ExpectSameTree(text);
  }
}

TEST(PlainYamlTest, OtherTextsAreLeftToTheLibrary) {
  for (const char* text : {
           "",
           "a\n",
           "a: 1\na: 2\n",
           "a: {b: 1}\n",
           "a: 'b'\n",
           "a: |\n  b\n",
           "a: &x 1\n",
           "a: *x\n",
           "a: !t b\n",
           "a: b\n  c\n",
           "a:\n- b\n",
           "a: ~\n",
           "a: Null\n",
           "null: 1\n",
           "a: b: c\n",
           "a: b#c\"\n",
           "? a\n",
           "---\na: 1\n",
           "a: 1\n...\n",
           "%YAML 1.2\n",
           "a: 1\r\n",
           "a:\tb\n",
           "a: \"b\n  c\"\n",
           "a: \"\\u00e4\"\n",
           "a: [b,\n  c]\n",
           "a: [b, [c]]\n",
           "a: [b, ]\n",
           "- - a\n",
           "a:\n    b: 1\n  c: 2\n",
           "  a: 1\n",
           "<<: 1\n",
           "a: 1\n b: 2\n",
           "a: \"b\" c\n",
           "a: -\n",
           "a: - b\n",
           "a: ...\n",
           "\"a\": 1\n",
       }) {
    EXPECT_FALSE(ReadPlainYaml(text, Source()).has_value()) << text;
  }
}

TEST(PlainYamlTest, DeepNestingIsLeftToTheLibrary) {
  std::string text;
  for (int depth = 0; depth < 32; ++depth) text += std::string(static_cast<size_t>(depth), ' ') + "a:\n";
  EXPECT_TRUE(ExpectSameTree(text));
  text.pop_back();
  EXPECT_FALSE(ReadPlainYaml(text + " []\n", Source()).has_value());
  EXPECT_FALSE(ReadPlainYaml(text + "\n" + std::string(32, ' ') + "a: 1\n", Source()).has_value());
}

// Whatever a slip of the pen makes of a plain text is either left to the library or read as it does.
TEST(PlainYamlTest, ChangedTextsReadAsWithTheLibraryOrNotAtAll) {
  constexpr uint32_t kSeed = 20261121;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  const std::vector<std::string> pieces = {" ",   "  ",  "\n", "- ", "-",  ": ",   ":",    "#", " #",   "\"",
                                           "\\",  "[",   "]",  ", ", ",",  "{}",   "{",    "a", "null", "~",
                                           "'",   "|",   "&",  "*",  "!",  "ü",    "\t",   "%", "---",  "?",
                                           "...", "1.5", "@",  "`",  "<<", "x: y", "\n\n", "/"};
  const auto below = [&](size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random); };
  int plain = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = kSmall;
    for (size_t change = 0; change <= below(3); ++change) {
      const size_t at = below(text.size() + 1);
      if (below(3) == 0) text.erase(at, 1 + below(3));
      if (below(3) != 0) text.insert(std::min(at, text.size()), pieces[below(pieces.size())]);
    }
    Diagnostics bytes;  // only of whole characters, as ReadYaml checks beforehand
    ReadAnyYaml(text, "f", &bytes);
    if (!bytes.empty() && bytes.all()[0].message.find("UTF-8") != std::string::npos) continue;
    plain += ExpectSameTree(text) ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(plain, 1000);
}

}  // namespace
}  // namespace vlm::spec
