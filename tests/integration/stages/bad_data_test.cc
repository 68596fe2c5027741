// Bad data through the real stages: each is told with its place and its remedy, and nothing that was good is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "base/file_system.h"
#include "base/mutex.h"
#include "data/image/image.h"
#include "data/manifest.h"
#include "data/record_file.h"
#include "data/tar/tar_writer.h"
#include "tests/integration/stages/local_job.h"
#include "trainer/exit_code.h"

namespace vlm::trainer {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

// Its align stage comes three times, so that ways to run one can be compared bit by bit.
constexpr char kJob[] = R"(
metadata: {name: bad-data}
spec:
  seed: 3
  ranks: {min: 1, max: 2}
  stages:
    - {name: tokenizer, kind: tokenizer, data: {text: [corpus.jsonl]}, tokenizer: {vocab_size: 300}, shards: 1}
    - name: index
      kind: index
      data:
        sources: [{name: pictures, from: "pictures/*"}]
        tokenizer: {stage: tokenizer}
        image: {size: 24, patch: 6}
        context: 96
        bad_pictures_max: 0.2
      shards: 2
    - name: pretrain
      kind: pretrain
      model: {text: {hidden: 32, layers: 1, heads: 2, intermediate: 64, context: 96}}
      data: {mixture: [{source: corpus.jsonl}], template: chatml}
      train: {steps: 1, global_batch: 2, micro_batch: 2}
    - name: align
      kind: align
      model:
        llm: {from: {stage: pretrain}}
        vision: {hidden: 32, layers: 1, heads: 2, intermediate: 64, image_size: 24, patch: 6}
      data: {index: {stage: index}, mixture: [{source: pictures}]}
      train: {steps: 4, global_batch: 8, micro_batch: 2}
      checkpoint: {every: 2 steps}
)";

constexpr int kPictures = 16;

std::string Question(int number) {
  return absl::StrCat(R"({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": )",
                      R"("which color is number )", number, R"(?"}]}, {"role": "assistant", "content": "red )",
                      number % 3, R"("}]})");
}

std::string Png(int number) {
  std::vector<uint8_t> rgb(size_t{3} * 24 * 24);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<uint8_t>(i * 7 + static_cast<size_t>(number) * 31);
  return *data::EncodePng({24, 24, std::move(rgb)});
}

struct Member {
  std::string name, contents;
};

std::vector<Member> GoodMembers() {
  std::vector<Member> members;
  for (int i = 0; i < kPictures; ++i) {
    members.push_back({absl::StrCat("s", i, ".png"), Png(i)});
    members.push_back({absl::StrCat("s", i, ".json"), Question(i)});
  }
  return members;
}

// A picture that claims 60,000 x 60,000 pixels; its header is whole.
std::string HugePng() {
  std::string png = Png(0);
  for (const size_t at : {size_t{16}, size_t{20}}) png.replace(at, 4, std::string("\0\0\xEA\x60", 4));
  uint32_t sum = ~0u;
  for (const char byte : png.substr(12, 17)) {
    sum ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ ((sum & 1) != 0 ? 0xEDB88320u : 0u);
  }
  for (size_t i = 0; i < 4; ++i) png[29 + i] = static_cast<char>(~sum >> (24 - 8 * i));
  return png;
}

std::string HugeJpeg() {
  std::string jpeg = *data::EncodeJpeg({8, 8, std::vector<uint8_t>(3 * 8 * 8, 90)}, 90);
  const size_t frame = jpeg.find("\xFF\xC0");
  EXPECT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xEA\x60\xEA\x60");
  return jpeg;
}

class BadDataTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& overrides = {}) {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = absl::StrCat(testing::TempDir(), "bad-data-", name);
    const std::string job_file = folder_ + ".yaml";
    std::string text = kJob;
    const std::string align = text.substr(text.find("    - name: align"));
    for (const char* const name : {"name: align-again", "name: align-third"}) {
      std::string again = align;
      text += again.replace(again.find("name: align"), 11, name);
    }
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), job_file).ok());
    ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), job_file, text).ok());
    absl::StatusOr<std::unique_ptr<LocalJob>> job = LocalJob::Create(folder_, job_file, overrides);
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *std::move(job);
    std::string corpus;
    for (int i = 0; i < 60; ++i) {
      absl::StrAppend(&corpus, R"({"text": "the quick brown fox sees number )", i, R"( of the red shapes"})", "\n");
    }
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/pictures").ok());
    ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), folder_ + "/corpus.jsonl", corpus).ok());
    const absl::Status status = Run("tokenizer");
    ASSERT_TRUE(status.ok()) << status;
  }

  // Runs a stage and keeps what it logs and counts.
  absl::Status Run(const std::string& stage, StageRun run = {}) {
    Mutex mutex;
    metrics_.clear();
    run.on_metric = [&](std::string_view series, double value) {
      MutexLock lock(&mutex);
      metrics_[std::string(series)] += value;
    };
    testing::internal::CaptureStderr();
    const absl::Status status = job_->RunStage(stage, run);
    log_ = testing::internal::GetCapturedStderr();
    return status;
  }

  std::string WriteTar(const std::vector<Member>& members) {
    const std::string path = folder_ + "/pictures/a.tar";
    EXPECT_TRUE(RemoveTree(PosixFileSystem(), path).ok());
    const std::unique_ptr<WritableFile> file = *PosixFileSystem()->Create(path);
    data::TarWriter tar(file.get());
    for (const Member& member : members) EXPECT_TRUE(tar.Append(member.name, member.contents).ok());
    EXPECT_TRUE(tar.Finish().ok());
    EXPECT_TRUE(file->Close().ok());
    return path;
  }

  std::string ReadAll(const std::string& path) { return *ReadFile(PosixFileSystem(), path, 1 << 30); }

  void Overwrite(const std::string& path, const std::string& contents) {
    ASSERT_TRUE(PosixFileSystem()->Remove(path).ok());
    ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), path, contents).ok());
  }

  // Breaks pictures of the tar where they lie: its size and all else stay.
  void Damage(const std::string& path, const std::vector<int>& pictures) {
    std::string tar = ReadAll(path);
    for (const int picture : pictures) {
      const size_t at = tar.find(Png(picture));
      ASSERT_NE(at, std::string::npos) << picture;
      tar[at + 60] = static_cast<char>(tar[at + 60] ^ 0x55);
    }
    Overwrite(path, tar);
  }

  std::vector<nlohmann::json> Quarantine() {
    std::vector<nlohmann::json> lines;
    const std::string text = ReadAll(job_->ArtifactFolder("index") + "/quarantine.jsonl");
    for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      lines.push_back(nlohmann::json::parse(std::string(line)));
    }
    return lines;
  }

  nlohmann::json ManifestSource() {
    return nlohmann::json::parse(ReadAll(job_->ArtifactFolder("index") + "/manifest.json")).at("sources").at(0);
  }

  // What training left behind, without what names files.
  std::map<std::string, std::string> Weights(const std::string& stage) {
    std::map<std::string, std::string> contents;
    const std::string folder = job_->ArtifactFolder(stage);
    const absl::StatusOr<std::vector<std::string>> names = PosixFileSystem()->List(folder);
    EXPECT_TRUE(names.ok()) << names.status();
    for (const std::string& name : *names) {
      if (name.ends_with(".safetensors") || name == "curves.jsonl") contents[name] = ReadAll(folder + "/" + name);
    }
    EXPECT_GE(contents.size(), 3u);
    return contents;
  }

  nlohmann::json TrainerState(const std::string& stage) {
    return nlohmann::json::parse(ReadAll(job_->ArtifactFolder(stage) + "/trainer_state.json"));
  }

  // Good data, indexed, and the text model that align starts from.
  std::string Prepare(const std::string& policy, const std::string& limit = "0.2") {
    Start({"spec.stages[index].data.on_bad_picture=" + policy, "spec.stages[index].data.bad_pictures_max=" + limit});
    const std::string tar = WriteTar(GoodMembers());
    for (const char* const stage : {"index", "pretrain-index", "pretrain"}) {
      const absl::Status status = Run(stage);
      EXPECT_TRUE(status.ok()) << stage << ": " << status;
    }
    return tar;
  }

  std::string folder_, log_;
  std::map<std::string, double> metrics_;
  std::unique_ptr<LocalJob> job_;
};

TEST_F(BadDataTest, AShardThatIsCutShortIsNamedAndItsRestHelps) {
  Start();
  const std::string tar = WriteTar(GoodMembers());
  const std::string whole = ReadAll(tar);
  Overwrite(tar, whole.substr(0, whole.size() / 2 / 512 * 512 + 100));
  const absl::Status status = Run("index");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("tar archive is cut short"), ContainsRegex("a.tar, offset [0-9]+"),
                    HasSubstr("copy it again or write it anew")));
  Overwrite(tar, whole);
  ASSERT_TRUE(Run("index").ok());
  EXPECT_EQ(ManifestSource().at("samples"), kPictures);
  EXPECT_TRUE(Quarantine().empty());
}

TEST_F(BadDataTest, AShardThatIsCutShortAfterItWasIndexedIsBadDataOfTraining) {
  const std::string tar = Prepare("drop");
  const std::string whole = ReadAll(tar);
  Overwrite(tar, whole.substr(0, whole.size() / 2));
  const absl::Status status = Run("align", {.world = 2});
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadData) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("restore the data files, or run their index stage again"), HasSubstr("stage index"),
                    HasSubstr("data file has changed"), HasSubstr("a.tar")));
  Overwrite(tar, whole);
  EXPECT_TRUE(Run("align", {.world = 2}).ok());
}

TEST_F(BadDataTest, ByDefaultABadPictureFailsTheIndexAndAllOfTheFileAreNamed) {
  Start();
  std::vector<Member> members = GoodMembers();
  members[6].contents = "no picture";
  members[20].contents.resize(members[20].contents.size() - 30);
  WriteTar(members);
  const absl::Status status = Run("index");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("set data.on_bad_picture to drop or placeholder (2 of 16 in this file)"),
                    ContainsRegex("a.tar: record 4, member s3.png at offset [0-9]+: picture is neither JPEG nor PNG"),
                    ContainsRegex("a.tar: record 11, member s10.png at offset [0-9]+: PNG is broken")));
  members[6].contents = Png(3);
  members[20].contents = Png(10);
  WriteTar(members);
  EXPECT_TRUE(Run("index").ok());
}

TEST_F(BadDataTest, DroppedSamplesAreListedAndCounted) {
  Start({"spec.stages[index].data.on_bad_picture=drop"});
  std::vector<Member> members = GoodMembers();
  members[6].contents = "no picture";
  const std::string tar = WriteTar(members);
  ASSERT_TRUE(Run("index", {.world = 2}).ok());
  const nlohmann::json source = ManifestSource();
  EXPECT_EQ(source.at("samples"), kPictures - 1);
  EXPECT_EQ(source.at("rejected"), 1);
  EXPECT_EQ(source.at("pictures"), kPictures);
  EXPECT_EQ(source.at("bad_pictures"), 1);
  const std::vector<nlohmann::json> list = Quarantine();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].at("source"), "pictures");
  EXPECT_EQ(list[0].at("file"), tar);
  EXPECT_EQ(list[0].at("record"), 4);
  EXPECT_EQ(list[0].at("member"), "s3.png");
  EXPECT_EQ(list[0].at("what"), "picture");
  EXPECT_EQ(list[0].at("action"), "drop");
  EXPECT_THAT(list[0].at("reason").get<std::string>(), HasSubstr("neither JPEG nor PNG"));
  EXPECT_EQ(metrics_["bad_pictures"], 1);
  EXPECT_EQ(metrics_["samples_rejected"], 1);
  EXPECT_THAT(log_, AllOf(ContainsRegex("drop: .*a.tar: record 4, member s3.png at offset"),
                          HasSubstr("source pictures: 15 samples, 1 records rejected, 1 of 16 pictures bad"),
                          HasSubstr("quarantine.jsonl")));
}

TEST_F(BadDataTest, APlaceholderIsTrainedOnAndNotTriedAgain) {
  Start({"spec.stages[index].data.on_bad_picture=placeholder"});
  std::vector<Member> members = GoodMembers();
  members[6].contents = "no picture";
  WriteTar(members);
  for (const char* const stage : {"index", "pretrain-index", "pretrain"}) ASSERT_TRUE(Run(stage).ok()) << stage;
  const absl::Status one = Run("align");
  ASSERT_TRUE(one.ok()) << one;
  EXPECT_EQ(metrics_["bad_pictures"], 0) << "the index has counted it";
  ASSERT_TRUE(Run("align-again", {.world = 2}).ok());
  EXPECT_TRUE(Weights("align") == Weights("align-again"));
  EXPECT_EQ(ManifestSource().at("samples"), kPictures);
  EXPECT_EQ(Quarantine().at(0).at("action"), "placeholder");
  EXPECT_FALSE(TrainerState("align").contains("bad_pictures"));
}

TEST_F(BadDataTest, AboveTheLimitTheIndexFailsAndNamesThem) {
  Start({"spec.stages[index].data.on_bad_picture=drop"});
  std::vector<Member> members = GoodMembers();
  for (const int picture : {1, 4, 9, 12}) members[static_cast<size_t>(2 * picture)].contents = "no picture";
  WriteTar(members);
  const absl::Status status = Run("index");
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadData) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("source pictures do not decode than data.bad_pictures_max allows; replace them or raise "
                              "it (4 of 16 pictures, limit 0.2)"),
                    HasSubstr("record 2, member s1.png"), HasSubstr("record 13, member s12.png")));
}

TEST_F(BadDataTest, PicturesThatClaimSixtyThousandPixelsASideAreRefusedByTheirHeaders) {
  Start({"spec.stages[index].data.on_bad_picture=drop"});
  std::vector<Member> members = GoodMembers();
  members[4].contents = HugePng();
  members[8] = {"s4.jpg", HugeJpeg()};
  WriteTar(members);
  ASSERT_TRUE(Run("index").ok());
  const std::vector<nlohmann::json> list = Quarantine();
  ASSERT_EQ(list.size(), 2u);
  for (const nlohmann::json& one : list) {
    EXPECT_THAT(one.at("reason").get<std::string>(),
                AllOf(HasSubstr("more pixels than allowed; shrink it"), HasSubstr("60000 x 60000")));
  }
  EXPECT_EQ(list[0].at("member"), "s2.png");
  EXPECT_EQ(list[1].at("member"), "s4.jpg");
}

TEST_F(BadDataTest, AConversationWithoutAnAnswerIsNoSampleAndIsNamed) {
  Start();
  std::vector<Member> members = GoodMembers();
  members[11].contents =
      R"({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "why?"}]}]})";
  WriteTar(members);
  const std::string lines = folder_ + "/pictures/b.jsonl";
  ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), lines,
                               "{\"text\": \"a line of text\"}\n"
                               "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n")
                  .ok());
  ASSERT_TRUE(Run("index").ok());
  EXPECT_EQ(ManifestSource().at("samples"), kPictures);  // one less of the tar, one more of the lines
  EXPECT_EQ(ManifestSource().at("rejected"), 2);
  const std::vector<nlohmann::json> list = Quarantine();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].at("record"), 6);
  EXPECT_EQ(list[0].at("member"), "s5.json");
  EXPECT_EQ(list[1].at("file"), lines);
  EXPECT_EQ(list[1].at("record"), 2);
  for (const nlohmann::json& one : list) {
    EXPECT_EQ(one.at("action"), "rejected");
    EXPECT_EQ(one.at("what"), "record");
    EXPECT_THAT(one.at("reason").get<std::string>(), HasSubstr("no target"));
  }
  EXPECT_THAT(log_, AllOf(HasSubstr("a.tar: record 6, member s5.json"), HasSubstr("b.jsonl: record 2 at offset")));
  EXPECT_EQ(metrics_["samples_rejected"], 2);
}

TEST_F(BadDataTest, ASourceOfWhichNothingIsUsableFailsAndSaysWhy) {
  Start();
  ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), folder_ + "/pictures/b.jsonl",
                               "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n")
                  .ok());
  const absl::Status status = Run("index");
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadData) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("no record of source pictures is usable; correct its files (1 rejected)"),
                    HasSubstr("b.jsonl: record 1"), HasSubstr("no target")));
}

// ---- pictures that have gone bad since they were indexed -----------------------------------------------------------

TEST_F(BadDataTest, APictureGoneBadFailsTrainingByDefault) {
  const std::string tar = Prepare("fail");
  const std::string whole = ReadAll(tar);
  Damage(tar, {3});
  for (const int world : {1, 2}) {
    const absl::Status status = Run("align", {.world = world});
    EXPECT_FALSE(status.ok());
    // Of two ranks the first error may be that of the peer, which tells the reason.
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("restore the file, or index it again"),
                      ContainsRegex("a.tar: picture at offset [0-9]+"), HasSubstr("PNG is broken")))
        << world;
    EXPECT_TRUE(world == 2 || ExitCodeOf(status) == ExitCode::kBadData) << status;
  }
  Overwrite(tar, whole);
  EXPECT_TRUE(Run("align").ok());
}

TEST_F(BadDataTest, APictureGoneBadIsDroppedOrReplacedAlikeOnAnyNumberOfRanks) {
  for (const std::string policy : {"drop", "placeholder"}) {
    SCOPED_TRACE(policy);
    const std::string tar = Prepare(policy);
    ASSERT_TRUE(Run("align-third").ok());
    const std::map<std::string, std::string> undamaged = Weights("align-third");
    Damage(tar, {3, 8});
    const absl::Status one = Run("align");
    ASSERT_TRUE(one.ok()) << one;
    EXPECT_THAT(log_, ContainsRegex(absl::StrCat("bad picture since it was indexed, step [0-9]+, ", policy,
                                                 ": .*a.tar: picture at offset [0-9]+.*PNG is broken")));
    EXPECT_EQ(metrics_["bad_pictures"], 2);
    const absl::Status two = Run("align-again", {.world = 2});
    ASSERT_TRUE(two.ok()) << two;
    EXPECT_EQ(metrics_["bad_pictures"], 2) << "once, not by every rank";
    EXPECT_TRUE(Weights("align") == Weights("align-again"));
    EXPECT_FALSE(Weights("align") == undamaged);
    EXPECT_EQ(TrainerState("align").at("bad_pictures"), (std::vector<int>{3, 8}));
    EXPECT_EQ(TrainerState("align").at("bad_pictures"), TrainerState("align-again").at("bad_pictures"));
  }
}

TEST_F(BadDataTest, AboveTheLimitTrainingFailsAndNamesThem) {
  const std::string tar = Prepare("placeholder", "0.1");
  Damage(tar, {1, 6});
  for (const int world : {1, 2}) {
    const absl::Status status = Run("align", {.world = world});
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadData) << world << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("more pictures of source pictures have gone bad since they were indexed"),
                      HasSubstr("restore the files, or index them again"), HasSubstr("2 of 16 pictures, limit 0.1"),
                      ContainsRegex("a.tar at offset [0-9]+; .*a.tar at offset [0-9]+")))
        << world;
  }
}

// What was found before a checkpoint still counts after it: a restart is no way around the limit.
TEST_F(BadDataTest, AResumedRunCountsOn) {
  const std::string tar = Prepare("placeholder", "0.1");
  Damage(tar, {1});
  const absl::Status first = Run("align", {.stop_after_save = 2});
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_EQ(metrics_["bad_pictures"], 1);
  const std::string damaged = ReadAll(tar);
  std::string repaired = damaged;
  const size_t header = damaged.find("s1.png");
  repaired.replace(header + 512, Png(1).size(), Png(1));
  Overwrite(tar, repaired);
  Damage(tar, {6});
  const absl::Status second = Run("align", {.world = 2});
  EXPECT_EQ(ExitCodeOf(second), ExitCode::kBadData) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr("2 of 16 pictures, limit 0.1"));
}

// ---- tokens that do not exist --------------------------------------------------------------------------------------

TEST_F(BadDataTest, ATokenizerThatNamesTokensItLacksIsRefused) {
  Start();
  WriteTar(GoodMembers());
  const std::string path = job_->ArtifactFolder("tokenizer") + "/tokenizer.json";
  const std::string good = ReadAll(path);
  const auto index_with = [&](const std::function<void(nlohmann::json*)>& change) {
    nlohmann::json json = nlohmann::json::parse(good);
    change(&json);
    Overwrite(path, json.dump());
    const absl::Status status = Run("index");
    EXPECT_EQ(ExitCodeOf(status), ExitCode::kUserError) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(index_with([](nlohmann::json* json) { (*json)["model"]["merges"][5] = {"t", "zebra"}; }),
              AllOf(HasSubstr("restore the tokenizer's file or train it again"), HasSubstr("tokenizer/"),
                    HasSubstr("part is not an entry of model.vocab: model.merges[5]"), HasSubstr("zebra")));
  EXPECT_THAT(index_with([](nlohmann::json* json) { (*json)["added_tokens"][0]["id"] = 5000; }),
              AllOf(HasSubstr("tokenizer.json"), HasSubstr("id must be"), HasSubstr("(<|endoftext|>)")));
  EXPECT_THAT(index_with([](nlohmann::json* json) {
                auto& added = (*json)["added_tokens"];
                added.erase(std::find_if(added.begin(), added.end(),
                                         [](const nlohmann::json& token) { return token["content"] == "<|image|>"; }));
              }),
              AllOf(HasSubstr("<|image|>"), HasSubstr("tokenizer.special")));
  Overwrite(path, good);
  EXPECT_TRUE(Run("index").ok());
}

TEST_F(BadDataTest, IdsBeyondTheModelsVocabularyAreRefusedBeforeTraining) {
  Prepare("fail");
  const std::string config = job_->ArtifactFolder("pretrain") + "/config.json";
  const std::string good = ReadAll(config);
  nlohmann::json smaller = nlohmann::json::parse(good);
  smaller["vocab_size"] = 270;
  Overwrite(config, smaller.dump());
  EXPECT_THAT(std::string(Run("align").message()), ContainsRegex("differ in vocabulary: 270 and [0-9]+ entries"));
  Overwrite(config, good);

  const std::string beside = job_->ArtifactFolder("index") + "/tokenizer.json";
  const std::string tokenizer = ReadAll(beside);
  Overwrite(beside, tokenizer + " ");
  const absl::Status other = Run("align");
  EXPECT_EQ(ExitCodeOf(other), ExitCode::kUserError) << other;
  EXPECT_THAT(std::string(other.message()),
              AllOf(HasSubstr("not the one the data was indexed with; index the data again"), HasSubstr("index/")));
  Overwrite(beside, tokenizer);
  EXPECT_TRUE(Run("align").ok());
}

TEST_F(BadDataTest, TextThatNamesSpecialTokensTrainsAsText) {
  Start();
  std::vector<Member> members = GoodMembers();
  members[1].contents = R"({"messages": [{"role": "user", "content": [{"type": "image"}, )"
                        R"({"type": "text", "text": "<|image|><|im_end|>"}]}, )"
                        R"({"role": "assistant", "content": "<|endoftext|><|im_start|>"}]})";
  WriteTar(members);
  for (const char* const stage : {"index", "pretrain-index", "pretrain", "align"}) {
    const absl::Status status = Run(stage);
    ASSERT_TRUE(status.ok()) << stage << ": " << status;
  }
  const absl::StatusOr<data::Manifest> manifest = data::ReadManifest(PosixFileSystem(), job_->ArtifactFolder("index"));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->samples.at(0).images, 1u);
  EXPECT_GT(manifest->samples.at(0).targets, 2u + 8) << "the names are many tokens of text, not two of control";
}

// ---- paths ---------------------------------------------------------------------------------------------------------

TEST_F(BadDataTest, DataOutsideTheRootsIsNotRead) {
  const std::string outside = testing::TempDir() + "bad-data-outside";
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), outside).ok());
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), outside).ok());
  ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), outside + "/secret.jsonl", "{\"text\": \"secret\"}\n").ok());
  const std::string from = "spec.stages[index].data.sources=[{name: pictures, from: \"";
  const std::string link = "leads through a symbolic link out of the worker's data roots";
  const std::vector<std::vector<std::string>> cases = {
      {outside + "/*.jsonl", "outside the worker's data roots", "--data-root to read: " + outside},
      {"link/*.jsonl", link, "--data-root to read: "},
      {"link.jsonl", link, "link.jsonl -> " + outside + "/secret.jsonl"}};
  for (const std::vector<std::string>& one : cases) {
    const std::string& pattern = one[0];
    SCOPED_TRACE(pattern);
    Start({from + pattern + "\"}]"});
    std::filesystem::create_directory_symlink(outside, folder_ + "/link");
    std::filesystem::create_symlink(outside + "/secret.jsonl", folder_ + "/link.jsonl");
    const absl::Status status = Run("index");
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(one[1]), HasSubstr(one[2])));
    EXPECT_THAT(log_, Not(HasSubstr("secret.jsonl:")));
  }
  const absl::Status up =
      LocalJob::Create(folder_, folder_ + ".yaml", {from + "../bad-data-outside/*.jsonl\"}]"}).status();
  EXPECT_THAT(std::string(up.message()),
              AllOf(HasSubstr("a path must not contain '..'"), HasSubstr("../bad-data-outside/*.jsonl")));
}

}  // namespace
}  // namespace vlm::trainer
