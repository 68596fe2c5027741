// Calls on a step that come twice, too late or with values they should not have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "checkpoint/core/checkpoint_core.h"
#include "checkpoint/core/step_rules.h"
#include "tests/unit/checkpoint/catalog_machine.h"

namespace vlm::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

#define EXPECT_CODE(expression, expected) EXPECT_EQ((expression).code(), absl::StatusCode::expected)

std::string Text(const absl::Status& status) { return std::string(status.message()); }

v1::DeleteStepRequest Removal(uint64_t step) {
  v1::DeleteStepRequest request;
  request.set_stage_uid(kUid);
  request.set_step(step);
  return request;
}

v1::VerifyStepRequest Reading(uint64_t step) {
  v1::VerifyStepRequest request;
  request.set_stage_uid(kUid);
  request.set_step(step);
  return request;
}

v1::CommitArtifactRequest Publishing(const std::string& kind) {
  v1::CommitArtifactRequest request;
  request.set_stage_uid(kUid);
  request.set_fence(1);
  request.set_kind(kind);
  return request;
}

google::protobuf::RepeatedPtrField<v1::StepFile> Files(const std::vector<std::string>& names) {
  google::protobuf::RepeatedPtrField<v1::StepFile> files;
  for (const std::string& name : names) {
    v1::StepFile& file = *files.Add();
    file.set_name(name);
    file.set_bytes(8);
    file.set_digest(std::string(64, 'a'));
  }
  return files;
}

TEST(StepRules, FilesOfAPart) {
  EXPECT_TRUE(CheckFiles(Files({"a", "b/a"})).ok());
  EXPECT_THAT(Text(CheckFiles(Files({"a", "b", "a"}))), HasSubstr("named twice in one part: \"a\""));
  auto large = Files({"a", "b"});
  large[1].set_bytes(uint64_t{1} << 50);
  EXPECT_TRUE(CheckFiles(large).ok());
  large[1].set_bytes((uint64_t{1} << 50) + 1);
  EXPECT_THAT(Text(CheckFiles(large)), HasSubstr("impossibly large: \"b\""));
  std::vector<std::string> names;
  for (int i = 0; i < kFilesPerPartMax; ++i) names.push_back("f" + std::to_string(i));
  EXPECT_TRUE(CheckFiles(Files(names)).ok());
  names.push_back("one-more");
  EXPECT_CODE(CheckFiles(Files(names)), kInvalidArgument);
}

TEST(StepRules, PartsWithTheSameFilesAreTheSame) {
  EXPECT_TRUE(SameFiles(Files({"a", "b"}), Files({"b", "a"})));
  EXPECT_FALSE(SameFiles(Files({"a", "b"}), Files({"a"})));
  EXPECT_FALSE(SameFiles(Files({"a"}), Files({"b"})));
  auto other = Files({"a"});
  other[0].set_digest(std::string(64, 'b'));
  EXPECT_FALSE(SameFiles(Files({"a"}), other));
  other = Files({"a"});
  other[0].set_bytes(9);
  EXPECT_FALSE(SameFiles(Files({"a"}), other));
}

TEST(StepRules, NamesAndRootsAreBounded) {
  EXPECT_TRUE(IsPathComponent("A-b_c.9"));
  EXPECT_TRUE(IsPathComponent(std::string(128, 'a')));
  for (const std::string& bad :
       {std::string(129, 'a'), std::string("\xc3\xa4"), std::string("a b"), std::string("a\0", 2)})
    EXPECT_FALSE(IsPathComponent(bad)) << bad;
  v1::OpenAttemptRequest request;
  request.set_stage_uid(kUid);
  request.set_fence(1);
  request.mutable_stage()->set_job_id("job-1");
  request.mutable_stage()->set_stage("sft");
  request.mutable_stage()->set_root("/" + std::string(2047, 'a'));
  EXPECT_TRUE(CheckRequest(request).ok());
  for (const std::string& bad :
       {std::string("/"), "/" + std::string(2048, 'a'), std::string("/a/./b"), std::string("/a\0b", 4)}) {
    request.mutable_stage()->set_root(bad);
    EXPECT_CODE(CheckRequest(request), kInvalidArgument) << bad;
  }
}

TEST(StepRules, BeginningAStep) {
  v1::BeginStepRequest request = CatalogMachine::BeginRequest(1, 5);
  request.set_parent_step(4);
  request.set_cursor(std::string(kCursorBytesMax, 'c'));
  request.set_world(kWorldMax);
  EXPECT_TRUE(CheckRequest(request).ok());
  v1::BeginStepRequest other = request;
  other.set_cursor(request.cursor() + "c");
  EXPECT_CODE(CheckRequest(other), kInvalidArgument);
  other = request;
  other.set_world(kWorldMax + 1);
  EXPECT_CODE(CheckRequest(other), kInvalidArgument);
  other = request;
  other.set_parent_step(5);
  EXPECT_CODE(CheckRequest(other), kInvalidArgument);
}

TEST(StepCalls, ARepeatedBeginMustHaveTheSameCursorAndParent) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  const auto begin = [&](const std::string& cursor, uint64_t parent) {
    v1::BeginStepRequest request = CatalogMachine::BeginRequest(1, 5);
    request.set_cursor(cursor);
    request.set_parent_step(parent);
    return machine.Reply<v1::BeginStepResponse>(machine.Send(request)).status();
  };
  EXPECT_TRUE(begin("at 40", 4).ok());
  EXPECT_CODE(begin("at 41", 4), kFailedPrecondition);
  EXPECT_CODE(begin("at 40", 3), kFailedPrecondition);
  EXPECT_TRUE(begin("at 40", 4).ok());
}

TEST(StepCalls, AStageKeepsTheJobAndNameItWasRegisteredWith) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  const auto open = [&](const std::string& job, const std::string& stage) {
    v1::OpenAttemptRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(2);
    request.mutable_stage()->set_job_id(job);
    request.mutable_stage()->set_stage(stage);
    request.mutable_stage()->set_root("/data");
    return machine.Reply<v1::OpenAttemptResponse>(machine.Send(request)).status();
  };
  EXPECT_THAT(Text(open("job-2", "sft")), HasSubstr("stage is registered as job-1/sft in /data"));
  EXPECT_CODE(open("job-1", "align"), kFailedPrecondition);
  EXPECT_EQ(machine.core().MinFence(kUid), 1u) << "a refusal moves no fence";
  EXPECT_TRUE(open("job-1", "sft").ok());
}

TEST(StepCalls, ARankIsCountedFromZero) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 5).ok());
  auto part = machine.WritePart(1, 5, 0);
  part->set_rank(-1);
  EXPECT_CODE(machine.Add(*part).status(), kInvalidArgument);
  part->set_rank(0);
  EXPECT_TRUE(machine.Add(*part)->committed());
}

TEST(StepCalls, WhileItIsReadForPublishingAnArtifactKeepsItsKind) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 5, /*final=*/true).ok());
  machine.HoldEffects(true);
  const uint64_t model = machine.Send(Publishing("model"));
  EXPECT_THAT(Text(machine.CommitArtifact(1, "dataset").status()), HasSubstr("of another kind: model"));
  machine.RunEffects();
  EXPECT_TRUE(machine.Reply<v1::CommitArtifactResponse>(model).ok());
}

TEST(StepCalls, APersonDeletesNoStepThatIsBeingWritten) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 5).ok());
  EXPECT_THAT(Text(machine.Delete(5)), HasSubstr("step is being written"));
  EXPECT_TRUE(machine.Add(*machine.WritePart(1, 5, 0))->committed());
}

TEST(StepCalls, EveryCallForOneDeletionIsAnswered) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  for (uint64_t step = 1; step <= 2; ++step) ASSERT_TRUE(machine.Save(1, step).ok());
  machine.HoldEffects(true);
  const uint64_t first = machine.Send(Removal(1)), second = machine.Send(Removal(1));
  EXPECT_FALSE(machine.Replied(first) || machine.Replied(second));
  machine.RunEffects();
  for (const uint64_t call : {first, second}) EXPECT_TRUE(machine.Reply<v1::DeleteStepResponse>(call).ok());
  EXPECT_EQ(machine.Count(CatalogEvent::Kind::kDeleting), 1);
  EXPECT_EQ(machine.Describe(), "2@1:COMPLETE+RESUME(1) ");
}

// Given up while its folder is made, or while its files are looked at: what the effects say then is of no step.
TEST(StepCalls, ResultsForAStepThatWasGivenUpChangeNothing) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  machine.HoldEffects(true);
  const uint64_t begun = machine.Send(CatalogMachine::BeginRequest(1, 3));
  ASSERT_TRUE(machine.Delete(3, 1).ok());
  EXPECT_CODE(machine.Reply<v1::BeginStepResponse>(begun).status(), kFailedPrecondition);
  machine.RunEffects();
  EXPECT_EQ(machine.Describe(), "");
  machine.HoldEffects(false);
  ASSERT_TRUE(machine.Begin(1, 4).ok());
  const auto part = machine.WritePart(1, 4, 0);
  machine.HoldEffects(true);
  const uint64_t added = machine.Send(*part);
  ASSERT_TRUE(machine.Delete(4, 1).ok());
  EXPECT_CODE(machine.Reply<v1::AddPartResponse>(added).status(), kFailedPrecondition);
  EXPECT_CODE(machine.Add(*part).status(), kFailedPrecondition) << "it is being removed";
  machine.RunEffects();
  EXPECT_EQ(machine.Describe(), "");
  EXPECT_THAT(machine.Folders(), ElementsAre());
  EXPECT_EQ(machine.Count(CatalogEvent::Kind::kCommitted), 0);
}

TEST(StepCalls, AnErrorOfLookingAtNewFilesIsAnsweredAndTheStepStays) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 5).ok());
  const auto part = machine.WritePart(1, 5, 0);
  ASSERT_TRUE(machine.disk()->Rename("/data/CATALOG", "/data/away").ok());  // as if the disk were not mounted
  EXPECT_THAT(Text(machine.Add(*part).status()), HasSubstr("is its disk mounted?"));
  EXPECT_EQ(machine.Describe(), "5@1:WRITING ");
  ASSERT_TRUE(machine.disk()->Rename("/data/away", "/data/CATALOG").ok());
  EXPECT_TRUE(machine.Add(*part)->committed());
}

TEST(StepCalls, OneReadingAnswersAllWhoAskForIt) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 5).ok());
  machine.HoldEffects(true);
  const uint64_t first = machine.Send(Reading(5)), second = machine.Send(Reading(5));
  machine.RunEffects();
  for (const uint64_t call : {first, second}) EXPECT_TRUE(machine.Reply<v1::VerifyStepResponse>(call).ok());
  EXPECT_EQ(machine.Count(CatalogEvent::Kind::kVerified), 1);
}

TEST(StepCalls, AReadingThatFailsLeavesTheAnswerToTheOther) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 5, /*final=*/true).ok());
  machine.HoldEffects(true);
  const uint64_t person = machine.Send(Reading(5)), published = machine.Send(Publishing("model"));
  ASSERT_TRUE(machine.disk()->Rename("/data/CATALOG", "/data/away").ok());  // as if the disk were not mounted
  machine.RunFirstEffects();
  EXPECT_FALSE(machine.Replied(person) || machine.Replied(published));
  ASSERT_TRUE(machine.disk()->Rename("/data/away", "/data/CATALOG").ok());
  machine.RunEffects();
  EXPECT_TRUE(machine.Reply<v1::VerifyStepResponse>(person).ok());
  EXPECT_TRUE(machine.Reply<v1::CommitArtifactResponse>(published).ok());
}

TEST(StepCalls, RetentionLeavesAStepThatIsBeingRead) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1, /*keep_last=*/1).ok());
  ASSERT_TRUE(machine.Save(1, 1).ok());
  ASSERT_TRUE(machine.Begin(1, 2).ok());
  const auto part = machine.WritePart(1, 2, 0);
  machine.HoldEffects(true);
  const uint64_t added = machine.Send(*part), read = machine.Send(Reading(1));
  machine.RunEffects();  // the commit comes first
  EXPECT_TRUE(machine.Reply<v1::AddPartResponse>(added)->committed());
  EXPECT_TRUE(machine.Reply<v1::VerifyStepResponse>(read).ok());
  EXPECT_EQ(machine.Describe(), "1@1:COMPLETE 2@1:COMPLETE+RESUME(1) ");
}

TEST(StepCalls, AStepNumberMeansTheCompleteOneOfSeveralAttempts) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 5).ok());
  ASSERT_TRUE(machine.Open(2).ok());
  ASSERT_TRUE(machine.Begin(2, 5).ok());
  EXPECT_TRUE(machine.Verify(5).ok()) << "the second is still being written";
  ASSERT_TRUE(machine.Add(*machine.WritePart(2, 5, 0))->committed());
  v1::GetStepRequest request;
  request.set_stage_uid(kUid);
  request.set_step(5);
  EXPECT_EQ(machine.Reply<v1::GetStepResponse>(machine.Send(request))->step().fence(), 2u) << "the newest of both";
}

TEST(StepCalls, TheFirstOfSeveralDamagesIsNamedAndTheOthersCounted) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 5, 2, /*final=*/true).ok());
  for (int rank = 0; rank < 2; ++rank) ASSERT_TRUE(machine.Add(*machine.WritePart(1, 5, rank)).ok());
  for (const char* file : {"rank-0.bin", "rank-1.bin"}) {
    ASSERT_TRUE(machine.disk()->FlipBit(StepFolder("/data", "job-1", "sft", {kUid, 5, 1}) + "/" + file, 3).ok());
  }
  ASSERT_EQ(machine.Verify(5)->damages_size(), 2);
  const std::string said = Text(machine.CommitArtifact(1).status());
  EXPECT_THAT(said, HasSubstr("the stage's final step is damaged: rank-0.bin, chunk 0: "));
  EXPECT_THAT(said, HasSubstr("(and 1 more)"));
}

}  // namespace
}  // namespace vlm::checkpoint
