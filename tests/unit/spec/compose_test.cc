#include "spec/compose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "spec/canonical.h"
#include "spec/render.h"
#include "spec/yaml_node.h"
#include "tests/unit/spec/job_text.h"

namespace vlm::spec {
namespace {

using testing::HasSubstr;

class ComposeTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "compose_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/recipes").ok());
  }
  void TearDown() override { ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok()); }

  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), folder_ + "/" + name, text).ok());
  }
  // The composed text, or the errors, with the test's folder cut out.
  std::string Composed(const std::vector<std::string>& overrides = {}, const std::string& name = "job.yaml") {
    Diagnostics diagnostics;
    const std::optional<std::string> text = Compose(PosixFileSystem(), folder_ + "/" + name, overrides, &diagnostics);
    EXPECT_EQ(text.has_value(), diagnostics.empty());
    std::string out = text ? *text : diagnostics.ToString();
    for (size_t at = out.find(folder_ + "/"); at != std::string::npos; at = out.find(folder_ + "/")) {
      out.erase(at, folder_.size() + 1);
    }
    return out;
  }

  std::string folder_;
};

TEST_F(ComposeTest, LaterFilesWinMapsMergeListsReplace) {
  Write("recipes/base.yaml", "metadata: {labels: {a: \"1\", b: \"2\"}}\nspec: {seed: 1, ranks: {min: 2, max: 8}}\n");
  Write("recipes/more.yaml", "extends: [base.yaml]\nspec: {seed: 2}\n");
  Write("job.yaml", "extends: [recipes/more.yaml]\n" + Head() + "  ranks: {max: 4}\n");
  const std::string text = Composed();
  EXPECT_THAT(text, HasSubstr("    a: \"1\"  # from recipes/base.yaml:1\n"));
  EXPECT_THAT(text, HasSubstr("  name: a  # from job.yaml:2\n"));
  EXPECT_THAT(text, HasSubstr("  seed: 2  # from recipes/more.yaml:2\n"));
  EXPECT_THAT(text, HasSubstr("    min: 2  # from recipes/base.yaml:2\n    max: 4  # from job.yaml:6\n"));
  EXPECT_THAT(text, HasSubstr("apiVersion: vlm/v1  # default\n"));
  const Job job = MustParse(text);
  EXPECT_EQ(job.ranks.max, 4);
  EXPECT_EQ(job.labels.size(), 2u);
}

TEST_F(ComposeTest, OfSeveralExtendedFilesTheLaterWins) {
  Write("a.yaml", "metadata: {labels: {from-a: x, both: a}}\nspec: {seed: 1, ranks: {min: 2, max: 3}}\n");
  Write("b.yaml", "metadata: {labels: {both: b}}\nspec: {seed: 2}\n");
  Write("job.yaml", "extends: [a.yaml, b.yaml]\n" + Head());
  const Job job = MustParse(Composed());
  EXPECT_EQ(job.seed, 2u);
  EXPECT_EQ(job.ranks.max, 3);
  EXPECT_EQ(job.labels, (std::map<std::string, std::string>{{"from-a", "x"}, {"both", "b"}}));
  Write("job.yaml", "extends: []\n" + Head());
  EXPECT_EQ(MustParse(Composed()).seed, 0u);
}

TEST_F(ComposeTest, OverridesReplaceListEntriesAndFillWhatIsEmpty) {
  Write("job.yaml", Replaced(FullJob(), "{name: a}", "{name: a, labels: null}"));
  const Job job =
      MustParse(Composed({"spec.stages[g].generate.splits[0]={name: captions, samples: 7}", "metadata.labels.who=me"}));
  EXPECT_EQ(FindStage(job, "g")->generate().splits[0].samples, 7);
  EXPECT_EQ(job.labels.at("who"), "me");
  EXPECT_THAT(Composed({"spec.stages[-1]=1"}), HasSubstr("no such list entry: [-1]"));
  EXPECT_THAT(Composed({"spec.stages.[s].seed=1"}), HasSubstr("not an override"));
  EXPECT_THAT(Composed({"[s]=1"}), HasSubstr("not an override"));
  EXPECT_THAT(Composed({"=1"}), HasSubstr("not an override"));
  EXPECT_THAT(Composed({"spec.=1"}), HasSubstr("not an override"));
}

TEST_F(ComposeTest, OverridesSetMakeAndRemove) {
  Write("job.yaml", FullJob());
  const std::string text =
      Composed({"spec.stages[s].train.lr=1e-5", "spec.stages[0].generate.splits[captions].samples=2K",
                "metadata.labels={who: me}", "spec.stages[p].train.steps=", "spec.stages[p].train.epochs=2",
                "spec.resources.gpu=0"});
  EXPECT_THAT(text, HasSubstr("lr: 1e-5  # from --set spec.stages[s].train.lr\n"));
  const Job job = MustParse(text);
  EXPECT_EQ(FindStage(job, "s")->training().train.lr.at("llm"), 1e-5);
  EXPECT_EQ(FindStage(job, "g")->generate().splits[0].samples, 2000);
  EXPECT_EQ(FindStage(job, "p")->training().train.length.epochs, 2.0);
  EXPECT_EQ(job.labels.at("who"), "me");
  EXPECT_EQ(job.gpu, 0);
}

TEST_F(ComposeTest, BadOverridesNameTheirPath) {
  Write("job.yaml", FullJob());
  EXPECT_EQ(Composed({"spec.seed"}),
            "--set spec.seed: spec.seed: not an override: 'spec.seed'; write PATH=VALUE, like "
            "spec.stages[sft].train.lr=1e-5\n");
  EXPECT_THAT(Composed({".a=1"}), HasSubstr("not an override"));
  EXPECT_THAT(Composed({"a[=1"}), HasSubstr("not an override"));
  EXPECT_THAT(Composed({"a..b=1"}), HasSubstr("not an override"));
  EXPECT_THAT(Composed({"spec.stages[x].seed=1"}),
              HasSubstr("no such list entry: [x]; entries: g, t, i, p, a, s, e\n"));
  EXPECT_THAT(Composed({"spec.stages[7].seed=1"}), HasSubstr("no such list entry: [7]"));
  EXPECT_THAT(Composed({"metadata.name.a=1"}), HasSubstr("not a map, so it has no key 'a'"));
  EXPECT_THAT(Composed({"spec.nothing="}), HasSubstr("no such key to remove: 'nothing'"));
  EXPECT_THAT(Composed({"spec.seed=[1"}), HasSubstr("the value is not valid YAML: [1"));
  EXPECT_EQ(Composed({"spec.stages[s].train.lrr=1"}),
            "--set spec.stages[s].train.lrr: spec.stages[s].train: unknown key: 'lrr'; did you mean 'lr'?\n");
  EXPECT_EQ(Composed({"spec.seed=-1"}), "--set spec.seed: spec.seed: must be at least 0, got -1\n");
}

TEST_F(ComposeTest, ErrorsNameTheFileTheyStandIn) {
  Write("base.yaml", "spec: {sed: 1}\n");
  Write("job.yaml", "extends: [base.yaml]\n" + Head());
  EXPECT_EQ(Composed(), "base.yaml:1:8: spec: unknown key: 'sed'; did you mean 'seed'?\n");
  Write("a.yaml", "extends: [b.yaml]\n");
  Write("b.yaml", "extends: [a.yaml]\n");
  EXPECT_EQ(Composed({}, "a.yaml"),
            "b.yaml:1:11: extends: files extend each other in a cycle: a.yaml -> b.yaml -> a.yaml\n");
  Write("c.yaml", "extends: [missing.yaml]\n");
  EXPECT_THAT(Composed({}, "c.yaml"), HasSubstr("c.yaml:1:11: cannot read the file: "));
  EXPECT_THAT(Composed({}, "none.yaml"), HasSubstr("none.yaml: cannot read the file: "));
  Write("e.yaml", "extends: [[base.yaml]]\n");
  EXPECT_EQ(Composed({}, "e.yaml"), "e.yaml:1:11: extends: expected a file, got a list\n");
  Write("f.yaml", "extends: [\"\"]\n");
  EXPECT_EQ(Composed({}, "f.yaml"), "f.yaml:1:11: extends: expected a file, got \"\"\n");
  Write("d.yaml", "extends: base.yaml\n");
  EXPECT_EQ(Composed({}, "d.yaml"), "d.yaml:1:10: extends: expected a list of files, got 'base.yaml'; write [FILE]\n");
}

TEST_F(ComposeTest, TheNumberOfFilesIsBounded) {
  for (int i = 0; i < 40; ++i)
    Write("f" + std::to_string(i) + ".yaml", "extends: [f" + std::to_string(i + 1) + ".yaml]\n");
  EXPECT_EQ(Composed({}, "f0.yaml"), "f32.yaml:1:11: extends: too many files: the limit is 32\n");
}

// Defaults and origins make a text longer, and the composed one is what is submitted.
TEST_F(ComposeTest, TheComposedJobIsBoundedToo) {
  std::string text = Head() + "    - {name: t, kind: tokenizer, data: {text: [a.txt]}}\n";
  for (int stage = 0; stage < 60; ++stage) {
    text += "    - {name: i" + std::to_string(stage) + ", kind: index, data: {tokenizer: {stage: t}, sources: [";
    for (int source = 0; source < 256; ++source) {
      text += (source == 0 ? "" : ", ") + std::string("{name: s") + std::to_string(source) + ", from: f}";
    }
    text += "]}}\n";
  }
  ASSERT_LT(text.size(), static_cast<size_t>(kJobBytesMax));
  Write("job.yaml", text);
  EXPECT_THAT(Composed(), HasSubstr("job.yaml: the composed job is too large: "));
}

TEST_F(ComposeTest, ComposedTextIsCompleteAndSettles) {
  for (const char* path : {"examples/shapes/job.yaml", "examples/shapes/tiny.yaml"}) {
    const std::string source = ReadSource(path);
    Write("job.yaml", source);
    const std::string composed = Composed();
    const Job before = MustParse(source), after = MustParse(composed);
    ASSERT_EQ(before.stages.size(), after.stages.size());
    for (size_t i = 0; i < before.stages.size(); ++i) {
      EXPECT_EQ(StageToJson(before.stages[i]), StageToJson(after.stages[i]));
    }
    Write("again.yaml", composed);
    const std::string again = Composed({}, "again.yaml");
    EXPECT_THAT(again, testing::Not(HasSubstr("# default")));  // nothing was left to fill in
  }
}

TEST_F(ComposeTest, InsertedIndexIsShown) {
  Write("job.yaml", FullJob());
  EXPECT_THAT(Composed(),
              HasSubstr("    - name: p-index  # from job.yaml:15\n      kind: index  # from job.yaml:15\n"));
}

TEST(Render, AwkwardStringsSurvive) {
  const std::vector<std::string> awkward = {"null",   "Null", "NULL",  "~",        "- a",  "a: b", "#c",    " lead",
                                            "trail ", "*a",   "&a",    "!t",       "",     "a\nb", "\"q\"", "'s'",
                                            "[x",     "{y",   "%d",    "@at",      "`b`",  "|",    ">",     "a\\b",
                                            "---",    "...",  "<|x|>", "\xc3\xa4", "a #b", "true", "1e3"};
  YamlNode list, map;
  list.kind = YamlNode::Kind::kList;
  map.kind = YamlNode::Kind::kMap;
  for (const std::string& text : awkward) list.items.push_back(ScalarNode(text, {}, true));
  for (const std::string& text : awkward) map.entries.push_back({text, {}, ScalarNode(text, {})});  // made, not read
  YamlNode mixed = list;  // not all on one line
  mixed.items.push_back(map);
  YamlNode root;
  root.kind = YamlNode::Kind::kMap;
  root.entries.push_back({"k", {}, list});
  root.entries.push_back({"m", {}, map});
  root.entries.push_back({"mixed", {}, mixed});
  Diagnostics diagnostics;
  const std::optional<YamlNode> back = ReadYaml(RenderYaml(root), "f", &diagnostics);
  ASSERT_TRUE(back.has_value()) << diagnostics.ToString();
  ASSERT_EQ(back->Find("k")->items.size(), awkward.size());
  ASSERT_EQ(back->Find("m")->entries.size(), awkward.size());
  ASSERT_EQ(back->Find("mixed")->items.size(), awkward.size() + 1);
  for (size_t i = 0; i < awkward.size(); ++i) {
    for (const char* key : {"k", "mixed"}) {
      EXPECT_EQ(back->Find(key)->items[i].scalar, awkward[i]);
      EXPECT_TRUE(back->Find(key)->items[i].quoted) << "else a word may become another type: " << awkward[i];
    }
    for (const YamlNode* made : {back->Find("m"), &back->Find("mixed")->items.back()}) {
      EXPECT_EQ(made->entries[i].key, awkward[i]);
      EXPECT_TRUE(made->entries[i].value.is_scalar()) << awkward[i];
      EXPECT_EQ(made->entries[i].value.scalar, awkward[i]);
    }
  }
}

}  // namespace
}  // namespace vlm::spec
