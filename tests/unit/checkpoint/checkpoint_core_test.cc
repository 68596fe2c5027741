#include "checkpoint/core/checkpoint_core.h"

#include <gtest/gtest.h>

#include "base/digest.h"
#include "checkpoint/core/retention.h"
#include "checkpoint/core/step_rules.h"
#include "gmock/gmock.h"
#include "tests/unit/checkpoint/catalog_machine.h"

namespace vlm::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Survival = SimulatedFileSystem::Survival;

#define EXPECT_CODE(expression, expected) EXPECT_EQ((expression).code(), absl::StatusCode::expected)

TEST(CheckpointCore, SavesResumesAndMovesTheHold) {
  CatalogMachine machine;
  EXPECT_EQ(machine.Open(1)->step(), 0u);
  EXPECT_TRUE(machine.Save(1, 100)->committed());
  EXPECT_EQ(machine.Describe(), "100@1:COMPLETE+RESUME(1) ");
  EXPECT_TRUE(machine.Save(1, 200)->committed());
  EXPECT_EQ(machine.Describe(), "100@1:COMPLETE 200@1:COMPLETE+RESUME(1) ");
  const auto opened = machine.Open(2);
  EXPECT_EQ(opened->step(), 200u);
  EXPECT_EQ(opened->folder(), "/data/jobs/job-1/sft/step-00000200-f00000001");
  EXPECT_EQ(opened->cursor(), "cursor");
  EXPECT_FALSE(opened->final());
  EXPECT_EQ(machine.Describe(), "100@1:COMPLETE 200@1:COMPLETE+RESUME(2) ");
  EXPECT_THAT(*ReadFile(machine.disk(), opened->folder() + "/COMMITTED.json", 1 << 20), HasSubstr("\"world\": 1"));
}

TEST(CheckpointCore, TheLastPartCommits) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 10, 3).ok());
  const auto part0 = machine.WritePart(1, 10, 0), part1 = machine.WritePart(1, 10, 1),
             part2 = machine.WritePart(1, 10, 2);
  EXPECT_FALSE(machine.Add(*part2)->committed());
  EXPECT_FALSE(machine.Add(*part0)->committed());
  EXPECT_FALSE(machine.Add(*part0)->committed());  // again
  EXPECT_TRUE(machine.Add(*part1)->committed());
  for (const auto& part : {part0, part1, part2}) EXPECT_TRUE(machine.Add(*part)->committed());  // and again
  EXPECT_EQ(machine.core().Steps().front().files_size(), 3);
}

TEST(CheckpointCore, EveryCallIsIdempotent) {
  CatalogMachine machine;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(machine.Open(1)->step(), 0u);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(machine.Begin(1, 5, 1, true).ok());
  const auto part = machine.WritePart(1, 5, 0);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(machine.Add(*part)->committed());
  EXPECT_TRUE(machine.Begin(1, 5, 1, true).ok());  // a late repetition, after the commit
  const std::string digest = machine.CommitArtifact(1)->digest();
  EXPECT_EQ(machine.CommitArtifact(1)->digest(), digest);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(machine.Verify(5)->damages().empty());
  const std::string described = machine.Describe();
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(machine.Open(2)->final());
  EXPECT_EQ(machine.CommitArtifact(2)->digest(), digest);
  EXPECT_EQ(described, "5@1:COMPLETE+RESUME(1)+OUTPUT ");
}

TEST(CheckpointCore, RepetitionsWithOtherValuesAreRefused) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 5, 2).ok());
  EXPECT_CODE(machine.Begin(1, 5, 3).status(), kFailedPrecondition);
  EXPECT_CODE(machine.Begin(1, 5, 2, true).status(), kFailedPrecondition);
  auto part = machine.WritePart(1, 5, 0);
  ASSERT_TRUE(machine.Add(*part).ok());
  auto other = *part;
  other.mutable_files(0)->set_bytes(1);
  EXPECT_CODE(machine.Add(other).status(), kFailedPrecondition);
  other = *part;
  other.set_rank(1);  // another rank's file
  EXPECT_THAT(std::string(machine.Add(other).status().message()), HasSubstr("another rank: rank-0.bin"));
  other.set_rank(2);
  EXPECT_CODE(machine.Add(other).status(), kInvalidArgument);
}

TEST(CheckpointCore, AFenceBelowOrAboveTheOpenOneIsRefused) {
  CatalogMachine machine;
  EXPECT_CODE(machine.Begin(1, 5).status(), kNotFound);
  ASSERT_TRUE(machine.Open(3).ok());
  EXPECT_CODE(machine.Open(2).status(), kFailedPrecondition);
  for (const uint64_t fence : {2, 4}) {
    EXPECT_CODE(machine.Begin(fence, 5).status(), kFailedPrecondition);
    EXPECT_CODE(machine.CommitArtifact(fence).status(), kFailedPrecondition);
    EXPECT_CODE(machine.Delete(5, fence), kFailedPrecondition);
    v1::AddPartRequest part;
    part.set_stage_uid(kUid);
    part.set_fence(fence);
    EXPECT_CODE(machine.Add(part).status(), kFailedPrecondition);
  }
  EXPECT_EQ(machine.core().MinFence(kUid), 3u);
}

TEST(CheckpointCore, OpeningAbortsTheUnfinishedStepsOfLowerFences) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 1).ok());
  ASSERT_TRUE(machine.Begin(1, 2, 2).ok());
  const auto late = machine.WritePart(1, 2, 0);
  EXPECT_EQ(machine.Open(2)->step(), 1u);
  EXPECT_EQ(machine.Describe(), "1@1:COMPLETE+RESUME(2) ");
  EXPECT_THAT(machine.Folders(), ElementsAre("step-00000001-f00000001"));
  EXPECT_CODE(machine.Add(*late).status(), kFailedPrecondition);
}

TEST(CheckpointCore, ACommitRacingAnOpeningIsReturnedOrRefused) {
  for (const bool open_first : {false, true}) {
    CatalogMachine machine;
    ASSERT_TRUE(machine.Open(1).ok());
    ASSERT_TRUE(machine.Begin(1, 7).ok());
    const auto part = machine.WritePart(1, 7, 0);
    machine.HoldEffects(true);
    const uint64_t add = machine.Send(*part);  // its files are being looked at
    EXPECT_FALSE(machine.Replied(add));
    if (!open_first) machine.RunEffects();
    const auto opened = machine.Open(2);
    machine.RunEffects();
    EXPECT_EQ(opened->step(), open_first ? 0u : 7u);
    const auto added = machine.Reply<v1::AddPartResponse>(add);
    EXPECT_EQ(added.ok(), !open_first);
    EXPECT_TRUE(!open_first || absl::IsFailedPrecondition(added.status())) << added.status();
    EXPECT_EQ(machine.Describe(), open_first ? "" : "7@1:COMPLETE+RESUME(2) ");
    EXPECT_EQ(machine.Count(CatalogEvent::Kind::kCommitted), open_first ? 0 : 1);
  }
}

TEST(CheckpointCore, AtMostTwoStepsAreBeingWritten) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 1).ok());
  ASSERT_TRUE(machine.Begin(1, 2).ok());
  EXPECT_CODE(machine.Begin(1, 3).status(), kResourceExhausted);
  ASSERT_TRUE(machine.Add(*machine.WritePart(1, 1, 0))->committed());
  EXPECT_TRUE(machine.Begin(1, 3).ok());
}

TEST(CheckpointCore, AStepGivenUpLeavesNothingAndIsNotBegunAgain) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 4, 2).ok());
  const auto part = machine.WritePart(1, 4, 0);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(machine.Delete(4, 1).ok());
  EXPECT_CODE(machine.Add(*part).status(), kFailedPrecondition);
  EXPECT_CODE(machine.Begin(1, 4, 2).status(), kFailedPrecondition);
  EXPECT_THAT(machine.Folders(), ElementsAre());
  EXPECT_EQ(machine.Describe(), "");
  EXPECT_TRUE(machine.Save(1, 5)->committed());
  EXPECT_CODE(machine.Delete(5, 1), kFailedPrecondition);  // complete: no rank may take it back
  ASSERT_TRUE(machine.Open(2).ok());
  EXPECT_TRUE(machine.Begin(2, 4, 2).ok());  // another attempt has another path
}

TEST(CheckpointCore, AReportedFileThatIsNotThereIsDataLossUntilItIs) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 4).ok());
  const auto part = machine.WritePart(1, 4, 0);
  const std::string path = "/data/jobs/job-1/sft/step-00000004-f00000001/rank-0.bin";
  ASSERT_TRUE(machine.disk()->Rename(path, path + ".away").ok());
  const auto refused = machine.Add(*part);
  EXPECT_CODE(refused.status(), kDataLoss);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("rank-0.bin: the file is missing"));
  ASSERT_TRUE(machine.disk()->Rename(path + ".away", path).ok());
  EXPECT_TRUE(machine.Add(*part)->committed());
}

TEST(CheckpointCore, TooLittleSpaceRefusesTheStep) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  machine.disk()->SetCapacity(10 << 20);
  v1::BeginStepRequest request = CatalogMachine::BeginRequest(1, 1);
  request.set_reserve_bytes(20 << 20);
  EXPECT_CODE(machine.Reply<v1::BeginStepResponse>(machine.Send(request)).status(), kResourceExhausted);
  EXPECT_EQ(machine.Describe(), "");
  EXPECT_TRUE(machine.Save(1, 1)->committed());  // a smaller one fits
}

TEST(CheckpointCore, DamageIsNamedAndTheNextAttemptFallsBack) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 1).ok());
  ASSERT_TRUE(machine.Save(1, 2).ok());
  ASSERT_TRUE(machine.disk()->FlipBit("/data/jobs/job-1/sft/step-00000002-f00000001/rank-0.bin", 9).ok());
  const auto verified = machine.Verify(2);
  ASSERT_EQ(verified->damages_size(), 1);
  EXPECT_EQ(verified->damages(0).file(), "rank-0.bin");
  EXPECT_EQ(verified->damages(0).chunk(), 0);
  EXPECT_THAT(machine.Describe(), HasSubstr("2@1:DAMAGED"));
  EXPECT_EQ(machine.Open(2)->step(), 1u);
  EXPECT_THAT(machine.Describe(), HasSubstr("1@1:COMPLETE+RESUME(2)"));
}

TEST(CheckpointCore, AnErrorOfLookingIsNotTakenForDamage) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 1).ok());
  ASSERT_TRUE(machine.disk()->Rename("/data/CATALOG", "/data/away").ok());  // as if the disk were not mounted
  EXPECT_CODE(machine.Verify(1).status(), kNotFound);
  EXPECT_THAT(machine.Describe(), HasSubstr("1@1:COMPLETE"));
  ASSERT_TRUE(machine.disk()->Rename("/data/away", "/data/CATALOG").ok());
  EXPECT_TRUE(machine.Verify(1)->damages().empty());
}

TEST(CheckpointCore, TheFinalStepBecomesTheArtifact) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  EXPECT_CODE(machine.CommitArtifact(1).status(), kNotFound);
  ASSERT_TRUE(machine.Save(1, 1).ok());
  EXPECT_CODE(machine.CommitArtifact(1).status(), kNotFound);  // not final
  ASSERT_TRUE(machine.Save(1, 2, /*final=*/true).ok());
  const auto artifact = machine.CommitArtifact(1);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  const v1::Step step = machine.core().Steps().back();
  EXPECT_EQ(artifact->digest(), Sha256Of("vlm-artifact 1 model\nrank-0.bin " + std::to_string(step.bytes()) + " " +
                                         step.files(0).digest() + "\n")
                                    .Hex());
  EXPECT_EQ(artifact->folder(), step.folder());
  EXPECT_TRUE(step.has_verified_at());
  EXPECT_CODE(machine.CommitArtifact(1, "dataset").status(), kFailedPrecondition);
  EXPECT_CODE(machine.Delete(2), kFailedPrecondition);
  EXPECT_THAT(machine.Describe(), HasSubstr("2@1:COMPLETE+RESUME(1)+OUTPUT"));
}

TEST(CheckpointCore, ADamagedFinalStepIsNotPublishedAndARetryReplacesIt) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 2, true).ok());
  ASSERT_TRUE(machine.disk()->FlipBit("/data/jobs/job-1/sft/step-00000002-f00000001/rank-0.bin", 0).ok());
  for (int i = 0; i < 2; ++i) EXPECT_CODE(machine.CommitArtifact(1).status(), kDataLoss);
  EXPECT_FALSE(machine.Open(2)->final());
  ASSERT_TRUE(machine.Save(2, 2, true).ok());
  EXPECT_TRUE(machine.CommitArtifact(2).ok());
}

// Of another step its bytes and digest are others; of the same step both rows have one key.
TEST(CheckpointCore, AnArtifactWhoseFinalStepWasLostIsReplacedAndItsHoldTakenAway) {
  for (const uint64_t step : {2, 3}) {
    CatalogMachine machine;
    ASSERT_TRUE(machine.Open(1).ok());
    ASSERT_TRUE(machine.Save(1, 2, true).ok());
    const std::string lost = machine.CommitArtifact(1)->digest();
    ASSERT_TRUE(machine.disk()->FlipBit("/data/jobs/job-1/sft/step-00000002-f00000001/rank-0.bin", 0).ok());
    ASSERT_FALSE(machine.Verify(2)->damages().empty());
    EXPECT_FALSE(machine.Open(2)->final());
    EXPECT_EQ(machine.Describe(), "2@1:DAMAGED+OUTPUT ");
    ASSERT_TRUE(machine.Save(2, step, true).ok());
    const auto artifact = machine.CommitArtifact(2);
    ASSERT_TRUE(artifact.ok()) << artifact.status();
    EXPECT_EQ(artifact->digest() == lost, step == 2);
    EXPECT_EQ(artifact->folder(), StepFolder("/data", "job-1", "sft", {kUid, step, 2}));
    const std::string published = std::to_string(step) + "@2:COMPLETE+RESUME(2)+OUTPUT ";
    EXPECT_EQ(machine.Describe(), "2@1:DAMAGED " + published);
    std::vector<std::string> keys;
    ASSERT_TRUE(machine.store()
                    ->Scan(kArtifactFamily, "",
                           [&keys](std::string_view key, std::string_view) {
                             keys.emplace_back(key);
                             return true;
                           })
                    .ok());
    EXPECT_THAT(keys, ElementsAre(EncodeArtifactKey(artifact->digest(), kUid)));
    machine.Restart();
    EXPECT_EQ(machine.CommitArtifact(2)->digest(), artifact->digest());
    ASSERT_TRUE(machine.Open(3).ok());  // retention may take the lost step now
    EXPECT_EQ(machine.Describe(), std::to_string(step) + "@2:COMPLETE+RESUME(3)+OUTPUT ");
  }
}

TEST(CheckpointCore, AStepThatIsBeingWrittenOrDeletedIsNotVerified) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 1).ok());
  EXPECT_CODE(machine.Verify(1).status(), kFailedPrecondition);
  EXPECT_TRUE(machine.Add(*machine.WritePart(1, 1, 0))->committed());
  ASSERT_TRUE(machine.Save(1, 2).ok());
  machine.HoldEffects(true);
  v1::VerifyStepRequest verify;
  verify.set_stage_uid(kUid);
  verify.set_step(1);
  const uint64_t before = machine.Send(verify);
  EXPECT_FALSE(machine.Replied(before));
  v1::DeleteStepRequest remove;
  remove.set_stage_uid(kUid);
  remove.set_step(1);
  const uint64_t removed = machine.Send(remove);
  EXPECT_CODE(machine.Reply<v1::VerifyStepResponse>(before).status(), kAborted);
  EXPECT_CODE(machine.Verify(1).status(), kFailedPrecondition);
  machine.RunEffects();  // the reading's result too, which nobody waits for
  EXPECT_TRUE(machine.Reply<v1::DeleteStepResponse>(removed).ok());
  EXPECT_CODE(machine.Verify(1).status(), kNotFound);
  EXPECT_EQ(machine.Describe(), "2@1:COMPLETE+RESUME(1) ");
}

TEST(CheckpointCore, PublishingDoesNotWaitForAPersonsVerificationOfTheSameStep) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Save(1, 5, true).ok());
  machine.HoldEffects(true);
  v1::VerifyStepRequest verify;
  verify.set_stage_uid(kUid);
  verify.set_step(5);
  const uint64_t person = machine.Send(verify);
  v1::CommitArtifactRequest commit;
  commit.set_stage_uid(kUid);
  commit.set_fence(1);
  commit.set_kind("model");
  const uint64_t published = machine.Send(commit);
  machine.RunFirstEffects();
  EXPECT_TRUE(machine.Reply<v1::CommitArtifactResponse>(published).ok());
  EXPECT_TRUE(machine.Reply<v1::VerifyStepResponse>(person).ok());  // the same reading serves both
  machine.RunEffects();                                             // the person's, for nobody any more
  EXPECT_EQ(machine.Describe(), "5@1:COMPLETE+RESUME(1)+OUTPUT ");
}

TEST(CheckpointCore, ACommittedStepIsDescribedAfterACrashToo) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 5).ok());
  const auto part = machine.WritePart(1, 5, 0);
  machine.disk()->SetHook([](FileOperation, const std::string& path) {
    return path.find("COMMITTED.json") == std::string::npos ? absl::OkStatus() : absl::InternalError("no such luck");
  });
  EXPECT_TRUE(machine.Add(*part)->committed());
  EXPECT_EQ(machine.Count(CatalogEvent::Kind::kNotDescribed), 1);
  const std::string path = StepFolder("/data", "job-1", "sft", {kUid, 5, 1}) + "/COMMITTED.json";
  machine.disk()->SetHook(nullptr);
  EXPECT_FALSE(machine.disk()->Stat(path).ok());
  machine.Restart();
  EXPECT_THAT(*ReadFile(machine.disk(), path, 1 << 20), HasSubstr("\"step\": 5"));
  ASSERT_TRUE(machine.disk()->Remove(path).ok());  // what is known to be written is not written again
  machine.Restart();
  EXPECT_FALSE(machine.disk()->Stat(path).ok());
  EXPECT_EQ(machine.Count(CatalogEvent::Kind::kNotDescribed), 1);
}

TEST(CheckpointCore, RetentionDeletesOldStepsAndKeepsHeldOnes) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1, /*keep_last=*/2).ok());
  for (uint64_t step = 1; step <= 4; ++step) ASSERT_TRUE(machine.Save(1, step).ok());
  EXPECT_EQ(machine.Describe(), "3@1:COMPLETE 4@1:COMPLETE+RESUME(1) ");
  EXPECT_THAT(machine.Folders(), ElementsAre("step-00000003-f00000001", "step-00000004-f00000001"));
  EXPECT_CODE(machine.Delete(4), kFailedPrecondition);
  EXPECT_TRUE(machine.Delete(3).ok());
  EXPECT_CODE(machine.Delete(3), kNotFound);
  EXPECT_THAT(machine.Folders(), ElementsAre("step-00000004-f00000001"));
}

TEST(CheckpointCore, ADeletionIsFinishedAfterARestart) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  for (uint64_t step = 1; step <= 2; ++step) ASSERT_TRUE(machine.Save(1, step).ok());
  machine.HoldEffects(true);
  machine.Send([] {
    v1::DeleteStepRequest request;
    request.set_stage_uid(kUid);
    request.set_step(1);
    return request;
  }());
  EXPECT_THAT(machine.Describe(), HasSubstr("1@1:DELETING"));
  machine.Crash(Survival::kNothing);
  machine.HoldEffects(false);
  machine.Boot();
  EXPECT_EQ(machine.Describe(), "2@1:COMPLETE+RESUME(1) ");
  EXPECT_THAT(machine.Folders(), ElementsAre("step-00000002-f00000001"));
}

TEST(CheckpointCore, ACommitThatACrashInterruptedIsFinishedWithoutAnotherCall) {
  CatalogMachine machine;
  ASSERT_TRUE(machine.Open(1).ok());
  ASSERT_TRUE(machine.Begin(1, 1).ok());
  const auto part = machine.WritePart(1, 1, 0);
  machine.HoldEffects(true);
  machine.Send(*part);
  machine.Crash(Survival::kNothing);
  machine.HoldEffects(false);
  machine.Boot();
  EXPECT_EQ(machine.Describe(), "1@1:COMPLETE+RESUME(1) ");
}

// Power goes before each changing operation of disk and store in turn. Afterwards: what was acknowledged is
// there; a step is absent or COMPLETE and whole; the disk holds no folder without a row.
TEST(CheckpointCore, EveryCrashLeavesNoStepOrAWholeOne) {
  for (const Survival survival : {Survival::kNothing, Survival::kRandom}) {
    bool finished = false;
    uint64_t operations = 0;
    for (; !finished; ++operations) {
      SCOPED_TRACE(operations);
      CatalogMachine machine(RngKey{operations});
      machine.StopAfter(operations);
      uint64_t acknowledged = 0;
      const auto script = [&] {
        if (!machine.Open(1, /*keep_last=*/1).ok()) return;
        for (uint64_t step = 1; step <= 3; ++step) {
          if (!machine.Begin(1, step, 2).ok()) return;
          for (int rank = 0; rank < 2; ++rank) {
            const auto part = machine.WritePart(1, step, rank);
            if (!part.ok()) return;
            const auto added = machine.Add(*part);
            if (!added.ok()) return;
            if (added->committed()) acknowledged = step;
          }
        }
        finished = !machine.stopped();
      };
      script();
      machine.Crash(survival);
      machine.Boot();
      const auto opened = machine.Open(2, 1);
      ASSERT_TRUE(opened.ok()) << opened.status();
      EXPECT_GE(opened->step(), acknowledged);
      std::vector<std::string> folders;
      for (const v1::Step& step : machine.core().Steps()) {
        EXPECT_EQ(step.state(), v1::STEP_STATE_COMPLETE) << machine.Describe();
        const auto verified = machine.Verify(step.step());
        EXPECT_TRUE(verified.ok() && verified->damages().empty()) << machine.Describe();
        folders.push_back(step.folder().substr(step.folder().rfind('/') + 1));
      }
      EXPECT_EQ(machine.Folders(), folders);
      EXPECT_TRUE(machine.Save(2, 10)->committed());
    }
    EXPECT_GT(operations, 60u);  // the loop met every operation of three saves
  }
}

// The process ends before each operation in turn and starts again on the same disk; the calls are repeated, the step
// commits; then the power goes. What the first process made and did not sync must not be missing.
TEST(CheckpointCore, AProcessThatEndedLeavesNothingUnsyncedUnderACommittedStep) {
  bool finished = false;
  for (uint64_t operations = 0; !finished; ++operations) {
    SCOPED_TRACE(operations);
    CatalogMachine machine;
    machine.StopAfter(operations);
    machine.Open(1).status().IgnoreError();
    machine.Begin(1, 1).status().IgnoreError();
    finished = !machine.stopped();
    machine.Restart();
    ASSERT_TRUE(machine.Open(1).ok());
    const auto saved = machine.Save(1, 1);
    ASSERT_TRUE(saved.ok() && saved->committed()) << saved.status();
    machine.Crash(Survival::kNothing);
    machine.Restart();
    EXPECT_EQ(machine.Open(2)->step(), 1u);
    const auto verified = machine.Verify(1);
    EXPECT_TRUE(verified.ok() && verified->damages().empty()) << verified.status();
  }
}

TEST(CheckpointCore, RefusesRequestsThatBreakTheRules) {
  CatalogMachine machine;
  const auto open = [&](const std::string& job, const std::string& stage, const std::string& root) {
    v1::OpenAttemptRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(1);
    request.mutable_stage()->set_job_id(job);
    request.mutable_stage()->set_stage(stage);
    request.mutable_stage()->set_root(root);
    return machine.Reply<v1::OpenAttemptResponse>(machine.Send(request)).status();
  };
  EXPECT_CODE(open("../x", "s", "/data"), kInvalidArgument);
  EXPECT_CODE(open("j", "a/b", "/data"), kInvalidArgument);
  EXPECT_CODE(open("j", "", "/data"), kInvalidArgument);
  EXPECT_CODE(open("j", "s", "data"), kInvalidArgument);
  EXPECT_CODE(open("j", "s", "/data/../etc"), kInvalidArgument);
  EXPECT_CODE(open("j", "s", "/data//x"), kInvalidArgument);
  EXPECT_CODE(open("j", "s", "/data/"), kInvalidArgument);
  EXPECT_CODE(open("j", "s", "/other"), kPermissionDenied);
  EXPECT_TRUE(open("j", "s", "/data/deeper/root").ok());
  EXPECT_CODE(open("j", "s", "/data"), kFailedPrecondition);  // the stage is registered elsewhere
  for (const char* const name :
       {"", ".", "..", "../x", "/x", "a//b", "a/", "a\nb", "COMMITTED.json", "x.sum", "x.tmp", ".x", "a/b/c/d/e"}) {
    EXPECT_FALSE(IsStepFileName(name)) << name;
  }
  for (const char* const name : {"config.json", "a/b.bin", "model-00001-of-00002.safetensors"})
    EXPECT_TRUE(IsStepFileName(name));
}

TEST(Retention, KeepsWhatItMust) {
  const auto step = [](uint64_t number, bool complete = true, bool verified = false, bool held = false) {
    return StepSummary{{kUid, number, 1}, complete, verified, held};
  };
  const auto deleted = [](std::vector<StepSummary> steps, RetentionPolicy policy) {
    std::string text;
    for (const StepToDelete& gone : DecideRetention(std::move(steps), policy))
      text += std::to_string(gone.key.step) + " ";
    return text;
  };
  EXPECT_EQ(deleted({step(1), step(2), step(3), step(4), step(5)}, {2, 0}), "3 2 1 ");
  EXPECT_EQ(deleted({step(5), step(1), step(3), step(4), step(2)}, {2, 2}), "3 1 ");
  EXPECT_EQ(deleted({step(1, true, true), step(2, true, true), step(3), step(4)}, {1, 0}),
            "3 1 ");                                                                 // 2: newest verified
  EXPECT_EQ(deleted({step(1, true, false, true), step(2), step(3)}, {1, 0}), "2 ");  // 1: held
  EXPECT_EQ(deleted({step(1), step(2)}, {0, 0}), "1 ");                              // never the newest
  EXPECT_EQ(deleted({step(1, false), step(2), step(3, false)}, {1, 0}), "1 ");
  EXPECT_EQ(deleted({step(1, false), step(2, false)}, {1, 0}), "");  // nothing good is newer
}

}  // namespace
}  // namespace vlm::checkpoint
