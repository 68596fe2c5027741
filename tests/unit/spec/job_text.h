// Job files for tests.
#ifndef VLM_TESTS_UNIT_SPEC_JOB_TEXT_H_
#define VLM_TESTS_UNIT_SPEC_JOB_TEXT_H_

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "base/file_system.h"
#include "spec/parse.h"

namespace vlm::spec {

// The smallest valid job; stages follow at an indentation of four.
inline std::string Head() {
  return "metadata: {name: a}\n"
         "spec:\n"
         "  stages:\n"
         "    - {name: g, kind: generate, generate: {splits: [{name: captions, samples: 10}]}}\n";
}

// Head() with a tokenizer, an index and the three training stages.
inline std::string FullJob() {
  return Head() +
         "    - {name: t, kind: tokenizer, data: {text: [{stage: g, splits: [captions]}]}}\n"
         "    - name: i\n"
         "      kind: index\n"
         "      data:\n"
         "        sources: [{name: captions, from: {stage: g, split: captions}}]\n"
         "        tokenizer: {stage: t}\n"
         "        image: {size: 24, patch: 6}\n"
         "    - name: p\n"
         "      kind: pretrain\n"
         "      model: {text: {hidden: 32, layers: 2, heads: 4, intermediate: 64}}\n"
         "      data: {mixture: [{source: corpus/*.jsonl}]}\n"
         "      train: {steps: 10, lr: 1e-3}\n"
         "    - name: a\n"
         "      kind: align\n"
         "      model:\n"
         "        llm: {from: {stage: p}}\n"
         "        vision: {hidden: 32, layers: 1, heads: 2, intermediate: 64, image_size: 24, patch: 6}\n"
         "      data: {index: {stage: i}, mixture: [{source: captions}]}\n"
         "    - name: s\n"
         "      kind: sft\n"
         "      model: {from: {stage: a}}\n"
         "      data: {index: {stage: i}, mixture: [{source: captions}]}\n"
         "    - name: e\n"
         "      kind: evaluate\n"
         "      model: {from: {stage: s}}\n"
         "      data: {index: {stage: i}}\n"
         "      tasks: [{name: scenes, source: captions, targets: {color: 0.9}}]\n";
}

// `text` with the first `from` in it as `to`.
inline std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}
inline std::string Full(const std::string& from, const std::string& to) { return Replaced(FullJob(), from, to); }

inline Job MustParse(const std::string& text) {
  Diagnostics diagnostics;
  std::optional<Job> job = ParseJob(text, "job.yaml", &diagnostics);
  EXPECT_EQ(diagnostics.ToString(), "");
  return job ? *std::move(job) : Job();
}

inline std::string Errors(const std::string& text) {
  Diagnostics diagnostics;
  const std::optional<Job> job = ParseJob(text, "f", &diagnostics);
  EXPECT_EQ(job.has_value(), diagnostics.empty());
  return diagnostics.ToString();
}

// A job that is refused, and what is said of it; `name` names the test.
struct BadJob {
  const char* name;
  std::string text;
  std::string said;
};
inline void PrintTo(const BadJob& bad, std::ostream* out) { *out << bad.name; }
inline std::string NameOf(const testing::TestParamInfo<BadJob>& info) { return info.param.name; }

inline std::string ReadSource(const std::string& path) {
  const absl::StatusOr<std::string> text =
      ReadFile(PosixFileSystem(), std::string(VLM_SOURCE_DIR) + "/" + path, 1 << 22);
  EXPECT_TRUE(text.ok()) << path;
  return text.ok() ? *text : "";
}

}  // namespace vlm::spec

#endif  // VLM_TESTS_UNIT_SPEC_JOB_TEXT_H_
