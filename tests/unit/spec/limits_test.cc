// Input made to hurt: depth, size, aliases, bytes that are no text.
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/spec/job_text.h"

namespace vlm::spec {
namespace {

std::string Repeat(const std::string& text, int times) {
  std::string out;
  out.reserve(text.size() * static_cast<size_t>(times));
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(Limits, DepthIsCutAtTheFirstLevelBeyond) {
  EXPECT_EQ(Errors(Repeat("[", 500'000)), "f:1:33: nested too deeply: the limit is 32 levels\n");
  EXPECT_EQ(Errors(Repeat("{a: ", 200'000)), "f:1:129: nested too deeply: the limit is 32 levels\n");
  EXPECT_EQ(Errors(Repeat("- ", 400'000)), "f:1:65: nested too deeply: the limit is 32 levels\n");
  std::string stairs;
  for (int i = 0; i < 1000; ++i) stairs += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_EQ(Errors(stairs), "f:33:33: nested too deeply: the limit is 32 levels\n");
}

TEST(Limits, ThirtyTwoLevelsAreRead) {
  const std::string text = Repeat("[", 32) + Repeat("]", 32);
  EXPECT_EQ(Errors(text), "f:1:1: expected a map, got a list\n");
}

TEST(Limits, FilesBeyondOneMebibyteAreNotParsed) {
  EXPECT_EQ(Errors("a: " + std::string(kJobBytesMax, 'x')),
            "f: the file is too large: 1048579 bytes, the limit is 1048576\n");
}

TEST(Limits, AFileFullOfKeysIsRefusedInBoundedTimeAndOutput) {
  std::string text;
  for (int i = 0; text.size() + 16 < kJobBytesMax; ++i) text += "k" + std::to_string(i) + ":\n";
  Diagnostics diagnostics;
  EXPECT_FALSE(ParseJob(text, "f", &diagnostics).has_value());
  EXPECT_EQ(diagnostics.all().size(), static_cast<size_t>(kDiagnosticsMax));
  EXPECT_GT(diagnostics.dropped(), 100'000);
  EXPECT_EQ(diagnostics.all()[0].ToString(),
            "f:1:1: unknown key: 'k0'; known keys: apiVersion, kind, extends, metadata, spec");
}

TEST(Limits, ManyDuplicatesAreCounted) {
  Diagnostics diagnostics;
  EXPECT_FALSE(ParseJob(Repeat("k: 1\n", 200'000), "f", &diagnostics).has_value());
  EXPECT_GT(diagnostics.dropped(), 199'000);
  EXPECT_TRUE(diagnostics.ToString().ends_with("and " + std::to_string(diagnostics.dropped()) + " more errors\n"));
}

TEST(Limits, AliasesAnchorsAndTagsAreRefused) {
  EXPECT_EQ(Errors("a: &x [1]\nb: *x\n"), "f:1:4: anchors are not allowed in a job file: &x\n");
  EXPECT_EQ(Errors("a: !!binary abc\n"), "f:1:4: tags are not allowed in a job file: tag:yaml.org,2002:binary\n");
}

TEST(Limits, OnlyTextIsRead) {
  EXPECT_EQ(Errors(""), "f:1:1: the file is empty\n");
  EXPECT_EQ(Errors("# nothing\n"), "f:1:1: the file is empty\n");
  EXPECT_EQ(Errors("a: b\nc: \xff\n"), "f:2:4: the file is not UTF-8 text\n");
  EXPECT_EQ(Errors(std::string("a: b\0c", 6)), "f:1:5: control characters are not allowed\n");
  EXPECT_EQ(Errors("a: \xed\xa0\x80"), "f:1:4: the file is not UTF-8 text\n");
  EXPECT_EQ(Errors(Head() + "---\na: b\n"), "f:5:1: a job file is one document: remove what follows '---'\n");
  EXPECT_EQ(Errors("[a]: b\n"), "f:1:1: a key must be a plain word, not a list or map\n");
  EXPECT_EQ(Errors("a: [b\n"), "f:2:1: not valid YAML: end of sequence flow not found\n");
}

TEST(Limits, ColumnsCountCharacters) {
  EXPECT_EQ(Errors(Head() + "  \"\xc3\xa4\xc3\xb6\xe2\x82\xac\": 1\n"),
            "f:5:3: spec: unknown key: '\xc3\xa4\xc3\xb6\xe2\x82\xac'; known keys: seed, ranks, resources, artifacts, "
            "retry, stop_if, stages\n");
  EXPECT_EQ(Errors("{\"\xc3\xa4\": 1, zzzz: 2, metadata: {name: a}, spec: {stages: [{name: g, kind: generate, "
                   "generate: {splits: [{name: captions, samples: 1}]}}]}}"),
            "f:1:2: unknown key: '\xc3\xa4'; known keys: apiVersion, kind, extends, metadata, spec\n"
            "f:1:10: unknown key: 'zzzz'; known keys: apiVersion, kind, extends, metadata, spec\n");
}

TEST(Limits, SixtyFourStages) {
  std::string text = "metadata: {name: a}\nspec:\n  stages:\n";
  for (int i = 0; i < 65; ++i) {
    text +=
        "  - {name: g" + std::to_string(i) + ", kind: generate, generate: {splits: [{name: captions, samples: 1}]}}\n";
  }
  EXPECT_EQ(Errors(text), "f:4:3: spec.stages: the number of entries must be from 1 to 64, got 65\n");
}

}  // namespace
}  // namespace vlm::spec
