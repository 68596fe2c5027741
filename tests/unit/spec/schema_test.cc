#include "spec/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "spec/words.h"
#include "tests/unit/spec/job_text.h"

namespace vlm::spec {
namespace {

TEST(Schema, ReferenceIsGenerated) {
  EXPECT_TRUE(ReadSource("docs/job-file.md") == ReferenceMarkdown())
      << "docs/job-file.md is not what the schema says: run build/test/tests/job_file_reference > docs/job-file.md";
}

TEST(Schema, RowsAreWellFormed) {
  std::set<std::pair<std::string, KindMask>> seen;
  for (const Field& field : SchemaTable()) {
    const std::string path(field.path);
    EXPECT_TRUE(seen.emplace(path, field.kinds).second) << "twice: " << path;
    EXPECT_FALSE(field.doc.empty()) << path;
    EXPECT_EQ(field.doc.back(), '.') << path;
    EXPECT_FALSE(field.required && !field.fallback.empty()) << path;
    EXPECT_EQ(field.type == ValueType::kChoice || field.type == ValueType::kIntegerChoice,
              !field.choices.empty() && field.type != ValueType::kStage)
        << path;
    ASSERT_NE(FindSchemaNode(path), nullptr) << path;
    const bool list = field.type == ValueType::kList;
    if (list) {
      EXPECT_NE(FindSchemaNode(path)->Child("[]"), nullptr) << path;
    }
    const size_t dot = path.rfind('.');
    if (dot != std::string::npos) {
      const SchemaNode* parent = FindSchemaNode(path.substr(0, dot));
      ASSERT_NE(parent, nullptr) << path;
      KindMask kinds = 0;
      for (const Field* row : parent->rows) kinds |= row->kinds;
      EXPECT_EQ(field.kinds & ~kinds, field.kinds == kEveryKind && kinds != kEveryKind ? ~kinds : 0u) << path;
    }
  }
}

template <typename T>
std::string Joined() {
  std::string text;
  for (const std::string_view word : Words<T>::kAll) text += (text.empty() ? "" : "|") + std::string(word);
  return text;
}
std::string Choices(const char* path) { return std::string(FindSchemaNode(path)->rows.at(0)->choices); }

TEST(Schema, ChoicesAreTheWordsOfTheTypes) {
  EXPECT_EQ(Choices("spec.stages.kind"), Joined<StageKind>());
  EXPECT_EQ(Choices("spec.retry.on[]"), Joined<FailureClass>());
  EXPECT_EQ(Choices("spec.stages.generate.image.format"), Joined<PictureFormat>());
  EXPECT_EQ(Choices("spec.stages.tokenizer.pattern"), Joined<SplitPattern>());
  EXPECT_EQ(Choices("spec.stages.data.template"), Joined<ChatTemplate>());
  EXPECT_EQ(Choices("spec.stages.model.connector.kind"), Joined<ConnectorKind>());
  EXPECT_EQ(Choices("spec.stages.train.schedule.kind"), Joined<ScheduleKind>());
  EXPECT_EQ(Choices("spec.stages.train.precision"), Joined<Precision>());
  EXPECT_EQ(Choices("spec.stages.tasks.control"), Joined<Control>());
}

TEST(Schema, FailureClassesHaveTheNumbersOfTheWire) {
  const std::string proto = ReadSource("proto/vlm/v1/failure.proto");
  for (const std::string_view word : Words<FailureClass>::kAll) {
    std::string name = "FAILURE_CLASS_";
    for (const char c : word) name += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    EXPECT_THAT(proto,
                testing::HasSubstr(name + " = " + std::to_string(static_cast<int>(*FromWord<FailureClass>(word)))));
  }
}

TEST(Schema, NearestAllowsSlips) {
  const std::vector<std::string> words = {"steps", "epochs", "tokens", "micro_batch"};
  EXPECT_EQ(Nearest("step", words), "steps");
  EXPECT_EQ(Nearest("sptes", words), "");       // two transpositions of five letters
  EXPECT_EQ(Nearest("setps", words), "steps");  // one
  EXPECT_EQ(Nearest("microbatch", words), "micro_batch");
  EXPECT_EQ(Nearest("weights", words), "");
  EXPECT_EQ(Nearest(std::string(1000, 'x'), words), "");
}

TEST(Schema, ExplainNamesTypeDefaultAndRange) {
  const absl::StatusOr<std::string> text = Explain("spec.stages.train.label_smoothing");
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text,
            "spec.stages[].train.label_smoothing\n"
            "  Share of each target's weight spread over the vocabulary.\n"
            "  type: a number, from 0 to 0.999\n"
            "  default: 0\n"
            "  stage kinds: pretrain, align, sft\n"
            "  changes results: yes\n");
  EXPECT_THAT(*Explain("spec.stages[sft].train.optimizer"),
              testing::HasSubstr("    beta2: Decay of the second moment."));
  EXPECT_THAT(*Explain("spec.stages"), testing::HasSubstr("    kind: What the stage does."));
  EXPECT_EQ(Explain("spec.stages.train.optimiser").status().message(),
            "no such field: spec.stages.train.optimiser; did you mean spec.stages.train.optimizer?");
  EXPECT_EQ(Explain("zzzzzzzz").status().message(), "no such field: zzzzzzzz");
  EXPECT_THAT(*Explain("spec.stages.train.precision"), testing::HasSubstr("  not supported yet: fp16\n"));
  EXPECT_THAT(*Explain("spec.stages.train.zero"), testing::HasSubstr("  changes results: no\n"));
}

}  // namespace
}  // namespace vlm::spec
