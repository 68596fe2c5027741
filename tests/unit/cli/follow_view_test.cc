#include "cli/follow_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vlm::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kStart = 1'700'000'000;
const absl::Time kNow = absl::FromUnixSeconds(kStart + 80);

v1::Stage* AddStage(v1::Job* job, const std::string& name, const std::string& kind, v1::StageState state) {
  v1::Stage* const stage = job->add_stages();
  stage->set_name(name);
  stage->set_kind(kind);
  stage->set_state(state);
  return stage;
}

// One stage in each situation that a person meets.
v1::Job ExampleJob() {
  v1::Job job;
  job.set_job_id("shapes-k3f9q2");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_submitted_at()->set_seconds(kStart);
  v1::Stage* stage = AddStage(&job, "generate", "generate", v1::STAGE_STATE_SUCCEEDED);
  stage->mutable_started_at()->set_seconds(kStart + 1);
  stage->mutable_ended_at()->set_seconds(kStart + 6);
  stage->mutable_progress()->set_done(8);
  stage->mutable_progress()->set_total(8);
  stage->set_artifact_folder("/srv/jobs/shapes-k3f9q2/generate/step-00000001-f00000001");
  AddStage(&job, "tokenizer", "tokenizer", v1::STAGE_STATE_REUSED);
  stage = AddStage(&job, "pretrain", "pretrain", v1::STAGE_STATE_ACTIVE);
  stage->set_attempt_state(v1::ATTEMPT_STATE_RUNNING);
  stage->set_restarts(1);
  stage->mutable_started_at()->set_seconds(kStart + 20);
  stage->mutable_progress()->set_done(120);
  stage->mutable_progress()->set_total(800);
  stage->mutable_progress()->set_loss(2.31449);
  stage->mutable_progress()->set_tokens_per_second(12'345);
  stage->mutable_progress()->set_images_per_second(41.26);
  stage->mutable_progress()->mutable_left()->set_seconds(80);
  stage = AddStage(&job, "align", "align", v1::STAGE_STATE_BLOCKED);
  stage->set_reason("waits for pretrain");
  return job;
}

TEST(FollowViewTest, ATerminalShowsALinePerStage) {
  FollowView view;
  view.SetJob(ExampleJob());
  EXPECT_THAT(view.LiveLines(kNow),
              ElementsAre("shapes-k3f9q2  running  1m 20s", "  ok generate   succeeded  5.0 s, 8/8 shards",
                          "  ok tokenizer  reused     unchanged, reused",
                          "  -> pretrain   active     [===                 ] step 120/800, loss 2.314, 12.3k tokens/s, "
                          "41.3 pictures/s, 1m 20s left, 1 restart",
                          "     align      blocked    waits for pretrain"));
}

TEST(FollowViewTest, SaysWhenTheCoordinatorIsAway) {
  FollowView view;
  view.SetJob(ExampleJob());
  view.SetAway(true);
  EXPECT_EQ(view.LiveLines(kNow).back(),
            "the coordinator does not answer; trying again (Ctrl-C leaves, the job goes on)");
  EXPECT_EQ(view.TakePlainLines(kNow, absl::ZeroDuration()).front(), "the coordinator does not answer; trying again");
  EXPECT_THAT(view.TakePlainLines(kNow, absl::ZeroDuration()), IsEmpty());
  view.SetAway(false);
  EXPECT_THAT(view.TakePlainLines(kNow, absl::ZeroDuration()), ElementsAre("the coordinator is back"));
}

TEST(FollowViewTest, PlainLinesComeOncePerChangeAndNotTooOften) {
  FollowView view;
  view.SetJob(ExampleJob());
  EXPECT_THAT(view.TakePlainLines(kNow, absl::ZeroDuration()),
              ElementsAre("generate: succeeded, 5.0 s, 8/8 shards", "tokenizer: reused, unchanged, reused",
                          "pretrain: active, step 120/800, loss 2.314, 12.3k tokens/s, 41.3 pictures/s, 1m 20s left, "
                          "1 restart"));
  EXPECT_THAT(view.TakePlainLines(kNow, absl::Seconds(1)), IsEmpty());

  v1::Progress progress = view.job().stages(2).progress();
  progress.set_done(130);
  view.SetProgress("pretrain", progress);
  EXPECT_THAT(view.TakePlainLines(kNow, kPlainInterval - absl::Milliseconds(1)), IsEmpty());
  EXPECT_THAT(view.TakePlainLines(kNow, kPlainInterval), ElementsAre(HasSubstr("step 130/800")));
  EXPECT_THAT(view.TakePlainLines(kNow, 3 * kPlainInterval), IsEmpty()) << "nothing moved";

  v1::Job job = view.job();
  job.mutable_stages(2)->set_state(v1::STAGE_STATE_BACKOFF);
  job.mutable_stages(2)->set_restarts(2);
  job.mutable_stages(2)->set_reason("worker_lost on node b; again in 5 s");
  view.SetJob(job);
  EXPECT_THAT(view.TakePlainLines(kNow, 3 * kPlainInterval),
              ElementsAre("pretrain: backoff, worker_lost on node b; again in 5 s, 2 restarts"))
      << "a change of state is told at once";
}

TEST(FollowViewTest, ProgressOfAnEndedStageIsLate) {
  FollowView view;
  view.SetJob(ExampleJob());
  v1::Progress late;
  late.set_done(3);
  view.SetProgress("generate", late);
  view.SetProgress("no such stage", late);
  EXPECT_EQ(view.job().stages(0).progress().done(), 8u);
}

TEST(FollowViewTest, TheSummaryOfASuccessSaysWhatToTypeNext) {
  v1::Job job = ExampleJob();
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.mutable_ended_at()->set_seconds(kStart + 95);
  v1::Stage* const stage = job.mutable_stages(2);
  stage->set_state(v1::STAGE_STATE_SUCCEEDED);
  stage->mutable_ended_at()->set_seconds(kStart + 90);
  stage->set_artifact_folder("/srv/jobs/shapes-k3f9q2/pretrain/step-00000800-f00000003");
  job.mutable_stages()->RemoveLast();
  FollowView view;
  view.SetJob(job);
  EXPECT_EQ(view.Summary(kNow), R"(
job shapes-k3f9q2 succeeded after 1m 35s

STAGE      STATE      TIME    RESTARTS  ARTIFACT
generate   succeeded  5.0 s   -         /srv/jobs/shapes-k3f9q2/generate/step-00000001-f00000001
tokenizer  reused     -       -         -
pretrain   succeeded  1m 10s  1         /srv/jobs/shapes-k3f9q2/pretrain/step-00000800-f00000003

next:
  vlmctl chat --job shapes-k3f9q2 --image FILE --prompt "..."   # ask the model
  vlmctl checkpoint export shapes-k3f9q2 pretrain --to FOLDER   # as a Hugging Face folder
  vlmctl checkpoint list shapes-k3f9q2   # what was saved
)");
}

TEST(FollowViewTest, TheSummaryOfAFailureSaysWhyAndWhatHelps) {
  v1::Job job = ExampleJob();
  job.set_state(v1::JOB_STATE_FAILED);
  job.set_reason("stage pretrain failed");
  job.mutable_ended_at()->set_seconds(kStart + 95);
  job.mutable_stages(2)->set_state(v1::STAGE_STATE_FAILED);
  job.mutable_stages(2)->set_reason("bad_data on rank 0: shard-3.tar: no such sample");
  FollowView view;
  view.SetJob(job);
  const std::string summary = view.Summary(kNow);
  EXPECT_THAT(summary, HasSubstr("job shapes-k3f9q2 failed after 1m 35s: stage pretrain failed\n"));
  EXPECT_THAT(summary, HasSubstr("pretrain failed: bad_data on rank 0: shard-3.tar: no such sample\n"));
  EXPECT_THAT(summary, HasSubstr("  vlmctl logs shapes-k3f9q2 --stage pretrain   # what its ranks wrote\n"));
  EXPECT_THAT(summary, HasSubstr("  vlmctl retry shapes-k3f9q2"));
}

}  // namespace
}  // namespace vlm::cli
