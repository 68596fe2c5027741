#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "tests/unit/coordinator/service_harness.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

TEST(Job, ASubmitIsOneJobHoweverOftenItIsSent) {
  ServiceHarness service;
  const spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
  const std::string first = service.Submit(job);
  EXPECT_EQ(service.Submit(job), first);
  service.Restart();
  EXPECT_EQ(service.Submit(job), first);
  EXPECT_NE(service.Submit(job, "another"), first);
}

TEST(Job, ARequestIdWithAnotherPayloadIsRefused) {
  ServiceHarness service;
  service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}));
  const spec::Job other = ServiceHarness::Job({ServiceHarness::Gang("train")}, "other");
  const Reply reply = service.Call(SubmitJob{99, other, "other yaml", "request", ""}, 99);
  EXPECT_EQ(reply.status.code(), absl::StatusCode::kAlreadyExists);
}

// The first answer may have been lost, and the disk has filled up since.
TEST(Job, WithoutRoomNoNewJobIsTakenButARequestThatHasItsJobIsAnswered) {
  ServiceHarness service;
  const spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
  const std::string id = service.Submit(job, "known");
  SubmitJob again(98, job, "yaml of " + job.name, "known", "");
  again.room = absl::ResourceExhaustedError("the disk is nearly full");
  const Reply known = service.Call(again, 98);
  ASSERT_TRUE(known.status.ok()) << known.status;
  EXPECT_EQ(std::get<v1::SubmitJobResponse>(known.response).job_id(), id);
  SubmitJob fresh(99, job, "yaml of " + job.name, "new", "");
  fresh.room = again.room;
  EXPECT_EQ(service.Call(fresh, 99).status, fresh.room);
}

TEST(Job, LimitsOfASubmit) {
  CoordinatorOptions options = ServiceHarness::Options();
  options.live_jobs_max = 1;
  ServiceHarness service(options);
  const spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
  EXPECT_EQ(service.Call(SubmitJob{1, job, "y", "", ""}, 1).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service.Call(SubmitJob{2, job, "y", std::string(129, 'x'), ""}, 2).status.code(),
            absl::StatusCode::kInvalidArgument);
  const std::string id = service.Submit(job);
  EXPECT_EQ(service.Call(SubmitJob{3, job, "z", "more", ""}, 3).status.code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(service.Cancel(id).ok());
  service.Submit(job, "more");
}

TEST(Job, WithoutStagesOrAFolderForItsArtifactsItIsRefused) {
  CoordinatorOptions options = ServiceHarness::Options();
  options.default_artifacts.clear();
  ServiceHarness service(options);
  spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
  const Reply homeless = service.Call(SubmitJob{1, job, "y", "1", ""}, 1);
  EXPECT_EQ(homeless.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(homeless.status.message()), HasSubstr("spec.artifacts is needed"));
  job.artifacts = "/elsewhere";
  EXPECT_TRUE(service.Call(SubmitJob{2, job, "y", "2", ""}, 2).status.ok());
  job.stages.clear();
  EXPECT_EQ(service.Call(SubmitJob{3, job, "y", "3", ""}, 3).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(Job, ResourcesSayOnWhichKindOfDeviceItRuns) {
  ServiceHarness service;
  service.Connect(service.Hello("a", 2));
  spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 2})});
  job.gpu = 1;
  const std::string on_gpus = service.Submit(job, "1");
  EXPECT_EQ(service.StageView(on_gpus, "train").state(), v1::STAGE_STATE_QUEUED);
  EXPECT_THAT(service.View(on_gpus).reason(), HasSubstr("needs 1 GPUs, workers offer 0"));
  v1::Hello hello = service.Hello("b");
  hello.mutable_devices(0)->set_kind(v1::DEVICE_KIND_CUDA);
  hello.mutable_devices(0)->set_uuid("GPU-1");
  service.Connect(hello);
  job.gpu = 0;
  const std::string on_slots = service.Submit(job, "2");
  for (const auto& [id, node, world] : {std::tuple(on_gpus, "b", 1), std::tuple(on_slots, "a", 2)}) {
    const v1::Stage stage = service.StageView(id, "train");
    ASSERT_EQ(stage.state(), v1::STAGE_STATE_ACTIVE) << stage.reason();
    EXPECT_EQ(stage.world(), world);
    for (const v1::RankPlacement& rank : stage.ranks()) EXPECT_EQ(rank.node_id(), node);
  }
  EXPECT_EQ(service.core().ListNodes().nodes(0).attempts_size(), 1) << "of two ranks";
}

TEST(Job, EventsSayWhoAskedAndWhy) {
  ServiceHarness service;
  const auto last = [&service](const std::string& kind) {
    std::string reason = "no such event";
    for (const v1::Event& event : service.events()) {
      if (event.kind() == kind) reason = event.reason();
    }
    return reason;
  };
  uint64_t call = 500;
  const auto cancel = [&](const std::string& actor, const std::string& note) {
    CancelJob request{++call, {}, actor};
    request.request.set_job_id(
        service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}), "request " + std::to_string(call)));
    request.request.set_note(note);
    EXPECT_TRUE(service.Call(request, request.call).status.ok());
    return last("job.cancel");
  };
  EXPECT_EQ(cancel("ann", "wrong data"), "by ann: wrong data");
  EXPECT_EQ(cancel("ann", ""), "by ann");
  EXPECT_EQ(cancel("", "wrong data"), "wrong data");
  EXPECT_EQ(cancel("", ""), "");
  EXPECT_EQ(last("job.submitted"), "by me");
}

TEST(Job, WaitsWithAReasonAndSaysWhatToDo) {
  ServiceHarness service;
  const std::string id = service.Submit(
      ServiceHarness::Job({ServiceHarness::Gang("train", {}, {2, 4}), ServiceHarness::Gang("next", {"train"})}));
  EXPECT_EQ(service.View(id).state(), v1::JOB_STATE_PENDING);
  EXPECT_THAT(service.View(id).reason(), HasSubstr("needs 2 CPU slots, workers offer 0"));
  EXPECT_THAT(service.View(id).next_action(), HasSubstr("start more workers"));
  EXPECT_EQ(service.StageView(id, "next").reason(), "waits for train");
  service.Connect(service.Hello("a", 1));
  EXPECT_THAT(service.View(id).reason(), HasSubstr("workers offer 1"));
  service.Connect(service.Hello("b", 1));
  EXPECT_EQ(service.View(id).state(), v1::JOB_STATE_RUNNING);
}

TEST(Job, TheFirstOfTheQueueIsNotOvertaken) {
  ServiceHarness service;
  service.Connect(service.Hello("a", 2));
  const std::string running = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}), "1");
  const std::string wide = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {2, 2})}), "2");
  const std::string narrow = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}), "3");
  EXPECT_EQ(service.StageView(running, "train").state(), v1::STAGE_STATE_ACTIVE);
  EXPECT_THAT(service.StageView(wide, "train").reason(), HasSubstr(running + "/train holds 1"));
  EXPECT_THAT(service.StageView(narrow, "train").reason(), HasSubstr("waits behind " + wide + "/train"));
  EXPECT_EQ(service.core().Count().queued["capacity"], 1);
  EXPECT_EQ(service.core().Count().queued["behind"], 1);
}

TEST(Job, TimeInTheQueueIsCountedByItsReason) {
  ServiceHarness service;
  const auto job = [](spec::Ranks ranks) { return ServiceHarness::Job({ServiceHarness::Gang("train", {}, ranks)}); };
  service.Submit(job({1, 1}), "1");
  EXPECT_EQ(service.Waited()["workers"], absl::ZeroDuration());
  service.Advance(absl::Seconds(3));  // nobody is there
  EXPECT_EQ(service.Waited()["workers"], absl::Seconds(3));
  service.Connect(service.Hello("a"));
  const std::string second = service.Submit(job({1, 1}), "2");
  service.Submit(job({1, 1}), "3");
  EXPECT_EQ(service.core().Count().queued, (std::map<std::string, int64_t>{{"behind", 1}, {"capacity", 1}}));
  service.Jump(absl::Milliseconds(700));  // a scrape between two ticks
  EXPECT_EQ(service.Waited()["workers"], absl::Seconds(3)) << "the first stage has left the queue";
  EXPECT_EQ(service.Waited()["capacity"], absl::Milliseconds(700));
  EXPECT_EQ(service.Waited()["behind"], absl::Milliseconds(700));
  ASSERT_TRUE(service.Cancel(second).ok());  // the third is the first in the queue from here on
  service.Jump(absl::Milliseconds(300));
  EXPECT_EQ(service.Waited()["capacity"], absl::Seconds(1));
  EXPECT_EQ(service.Waited()["behind"], absl::Milliseconds(700));
  service.Restart();
  EXPECT_EQ(service.Waited()["workers"] + service.Waited()["capacity"], absl::ZeroDuration());
}

TEST(Job, WhatCanNeverFitDoesNotBlockTheOthers) {
  ServiceHarness service;
  service.Connect(service.Hello("a", 1));
  service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {5, 5})}), "1");
  const std::string small = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}), "2");
  EXPECT_EQ(service.StageView(small, "train").state(), v1::STAGE_STATE_ACTIVE);
}

TEST(Job, CancelBeforeAnythingRuns) {
  ServiceHarness service;
  const std::string id =
      service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train"), ServiceHarness::Gang("next", {"train"})}));
  EXPECT_EQ(service.Cancel(id)->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(service.Cancel(id)->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(service.Retry(id).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(service.Cancel("none").status().code(), absl::StatusCode::kNotFound);
}

TEST(Job, CancelStopsTheAttemptAndWaitsForItsRanks) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}));
  service.RunAttempt(id, "train", {session});
  service.TakeSent(session);
  EXPECT_EQ(service.Cancel(id)->state(), v1::JOB_STATE_CANCELLING);
  const std::vector<v1::SessionResponse> sent = service.TakeSent(session);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].stop().cause(), v1::STOP_CAUSE_CANCEL);
  EXPECT_THAT(service.StageView(id, "train").reason(), HasSubstr("rank 0 on a to be reaped"));
  service.Exit(session, service.AttemptOf(id, "train"), 0, 0, 15);
  EXPECT_EQ(service.View(id).state(), v1::JOB_STATE_CANCELLED);
}

TEST(Job, CancelWhilePublishingFinishesPublishing) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id =
      service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train"), ServiceHarness::Gang("next", {"train"})}));
  service.RunAttempt(id, "train", {session});
  service.Exit(session, service.AttemptOf(id, "train"), 0, 0);
  const v1::Stage stage = service.StageView(id, "train");
  ASSERT_EQ(stage.state(), v1::STAGE_STATE_PUBLISHING);
  EXPECT_EQ(service.Cancel(id)->state(), v1::JOB_STATE_CANCELLING);
  service.Publish(stage.stage_uid(), stage.fence());
  EXPECT_EQ(service.View(id).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(service.StageView(id, "train").artifact_digest(), "digest of attempt 1");
}

TEST(Job, PublishingThatFailsAfterACancelIsNotTriedAgain) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}));
  service.RunAttempt(id, "train", {session});
  service.Exit(session, service.AttemptOf(id, "train"), 0, 0);
  ASSERT_EQ(service.Cancel(id)->state(), v1::JOB_STATE_CANCELLING);
  service.Publish(service.StageView(id, "train").stage_uid(), 1, absl::DataLossError("the final step is damaged"));
  EXPECT_EQ(service.View(id).state(), v1::JOB_STATE_CANCELLED);
  const v1::Stage stage = service.StageView(id, "train");
  EXPECT_EQ(stage.state(), v1::STAGE_STATE_CANCELLED);
  EXPECT_EQ(stage.restarts(), 0);
  EXPECT_THAT(stage.reason(), HasSubstr("cancelled; publishing failed: the final step is damaged"));
}

// A job of two stages that know nothing of each other: the first fails while the second runs, publishes or waits.
class RetryBesideAnother : public testing::Test {
 protected:
  void Submit(spec::Ranks ranks_of_right) {
    for (const char* node : {"a", "b"}) sessions_.push_back(service_.Connect(service_.Hello(node)));
    id_ = service_.Submit(ServiceHarness::Job(
        {ServiceHarness::Gang("left", {}, {1, 1}), ServiceHarness::Gang("right", {}, ranks_of_right)}));
    service_.RunAttempt(id_, "left", sessions_);
  }
  void End(const std::string& stage, int exit_code) {
    const std::string node = service_.StageView(id_, stage).ranks(0).node_id();
    service_.Exit(sessions_[node == "a" ? 0 : 1], service_.AttemptOf(id_, stage), 0, exit_code);
  }
  void Publish(const std::string& stage) {
    service_.Publish(service_.StageView(id_, stage).stage_uid(), service_.StageView(id_, stage).fence());
  }

  void LeftFailsBesideRight(bool publishing) {
    Submit({1, 1});
    service_.RunAttempt(id_, "right", sessions_);
    if (publishing) End("right", 0);
    End("left", 64);
    ASSERT_EQ(service_.StageView(id_, "left").state(), v1::STAGE_STATE_FAILED);
    EXPECT_EQ(service_.Retry(id_)->state(), v1::JOB_STATE_RUNNING);
    EXPECT_EQ(service_.StageView(id_, "left").fence(), 3u);
    EXPECT_EQ(service_.StageView(id_, "right").fence(), 2u) << "as it was";
    if (!publishing) End("right", 0);
    Publish("right");
    service_.RunAttempt(id_, "left", sessions_);
    End("left", 0);
    Publish("left");
    EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_SUCCEEDED);
  }

  ServiceHarness service_;
  std::vector<uint64_t> sessions_;
  std::string id_;
};

TEST_F(RetryBesideAnother, ThatRunsStartsOnlyWhatFailed) { LeftFailsBesideRight(/*publishing=*/false); }

TEST_F(RetryBesideAnother, ThatPublishesStartsOnlyWhatFailed) { LeftFailsBesideRight(/*publishing=*/true); }

TEST_F(RetryBesideAnother, OfAJobOfWhichNothingRunsIsPendingAgain) {
  Submit({5, 5});
  End("left", 64);
  ASSERT_EQ(service_.View(id_).state(), v1::JOB_STATE_RUNNING) << "the other waits for workers";
  EXPECT_EQ(service_.Retry(id_)->state(), v1::JOB_STATE_PENDING);
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_RUNNING);
}

TEST(Job, AFailedStageFailsItsChildrenAndRetryBringsThemBack) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id =
      service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train"), ServiceHarness::Gang("next", {"train"}),
                                          ServiceHarness::Gang("last", {"next"})}));
  service.RunAttempt(id, "train", {session});
  service.Exit(session, service.AttemptOf(id, "train"), 0, 64, 0, "no such key: lerning_rate");
  EXPECT_EQ(service.View(id).state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(service.View(id).reason(), HasSubstr("no such key: lerning_rate"));
  EXPECT_THAT(service.View(id).next_action(), HasSubstr("vlmctl retry"));
  EXPECT_EQ(service.StageView(id, "last").state(), v1::STAGE_STATE_UPSTREAM_FAILED);
  EXPECT_EQ(service.Retry(id)->state(), v1::JOB_STATE_PENDING);
  EXPECT_EQ(service.StageView(id, "train").fence(), 2u);
  EXPECT_EQ(service.StageView(id, "next").state(), v1::STAGE_STATE_BLOCKED);
  EXPECT_EQ(service.StageView(id, "last").state(), v1::STAGE_STATE_BLOCKED);
}

TEST(Job, ARepeatedRetryIsAnsweredAgainAndRetriesNothing) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
  const std::string id = service.Submit(job, "submit"), other = service.Submit(job, "submit of another");
  ASSERT_TRUE(service.Cancel(other).ok());
  service.RunAttempt(id, "train", {session});
  service.Exit(session, service.AttemptOf(id, "train"), 0, 64, 0, "wrong");
  EXPECT_EQ(service.Retry(id, "again")->state(), v1::JOB_STATE_PENDING);
  service.Restart();  // the answer was lost with the process: the row answers
  const absl::StatusOr<v1::RetryJobResponse> repeated = service.Retry(id, "again");
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_EQ(repeated->state(), v1::JOB_STATE_RUNNING);  // as it is now
  const uint64_t after = service.Connect(service.Hello("a", 1, 2));
  service.RunAttempt(id, "train", {after});
  service.Exit(after, service.AttemptOf(id, "train"), 0, 64, 0, "still wrong");
  ASSERT_EQ(service.View(id).state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(service.Retry(id, "again")->state(), v1::JOB_STATE_FAILED);  // of long ago
  EXPECT_EQ(service.Retry(other, "again").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(service.Retry(id, "submit").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(service.Retry(id, std::string(129, 'r')).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service.Retry(id, "another")->state(), v1::JOB_STATE_PENDING);
}

TEST(Job, UnchangedStagesAreReusedAfterTheirFilesWereRead) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train"), ServiceHarness::Gang("next", {"train"})});
  const std::string first = service.Submit(job, "1");
  service.RunAttempt(first, "train", {session});
  service.Exit(session, service.AttemptOf(first, "train"), 0, 0);
  const v1::Stage made = service.StageView(first, "train");
  service.Publish(made.stage_uid(), made.fence());
  ASSERT_EQ(service.StageView(first, "train").state(), v1::STAGE_STATE_SUCCEEDED);
  ASSERT_TRUE(service.Cancel(first).ok());

  const auto find_verify = [&service] {
    for (const Effect& effect : service.TakeEffects()) {
      if (const auto* verify = std::get_if<VerifyStep>(&effect)) return *verify;
    }
    ADD_FAILURE() << "no VerifyStep";
    return VerifyStep();
  };
  const std::string second = service.Submit(job, "2");
  VerifyStep wanted = find_verify();
  EXPECT_EQ(wanted.request.stage_uid(), made.stage_uid());
  EXPECT_EQ(service.StageView(second, "train").state(), v1::STAGE_STATE_BLOCKED);
  service.Feed(StepVerified{wanted.for_stage, wanted.request, absl::OkStatus(), {}});
  EXPECT_EQ(service.StageView(second, "train").state(), v1::STAGE_STATE_REUSED);
  EXPECT_EQ(service.StageView(second, "train").artifact_digest(), "digest of attempt 1");

  const std::string third = service.Submit(job, "3");
  wanted = find_verify();
  StepVerified damaged{wanted.for_stage, wanted.request, absl::OkStatus(), {}};
  damaged.response.add_damages()->set_file("llm.safetensors");
  service.Feed(damaged);
  EXPECT_NE(service.StageView(third, "train").state(), v1::STAGE_STATE_REUSED);
}

TEST(Job, AStageWithOtherSettingsIsNotReused) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
  const std::string first = service.Submit(job, "1");
  service.RunAttempt(first, "train", {session});
  service.Exit(session, service.AttemptOf(first, "train"), 0, 0);
  const v1::Stage made = service.StageView(first, "train");
  service.Publish(made.stage_uid(), made.fence());
  ASSERT_EQ(service.View(first).state(), v1::JOB_STATE_SUCCEEDED);
  std::get<spec::TrainingSettings>(job.stages[0].settings).train.length.steps = 200;
  const std::string second = service.Submit(job, "2");
  EXPECT_EQ(service.StageView(second, "train").state(), v1::STAGE_STATE_ACTIVE);
}

// A tokenizer over files of the data root, an index over files as well, and a stage that sees their artifacts only.
spec::Job OverTheUsersFiles() {
  spec::Stage tokens = ServiceHarness::Pool("tokens", 1);
  tokens.kind = spec::StageKind::kTokenizer;
  spec::TokenizerSettings tokenizer;
  tokenizer.text = {{"", "made", {"train"}}, {"corpus.jsonl", "", {}}};
  tokens.settings = tokenizer;
  spec::Stage index = ServiceHarness::Pool("index", 1);
  index.kind = spec::StageKind::kIndex;
  index.needs = {"tokens"};
  spec::IndexSettings sources;
  sources.sources = {{"chats", {"chats/*.jsonl", "", ""}}};
  index.settings = sources;
  return ServiceHarness::Job({tokens, index, ServiceHarness::Gang("train", {"index"})});
}

TEST(Job, WhatReadsTheUsersFilesRunsAgainAndItsChildrenFollowWhatItMade) {
  ServiceHarness service;
  service.Connect(service.Hello("a"));
  // Every stage is found complete, and its artifact has this digest.
  const auto make = [&service](const std::string& id, const std::string& stage, const std::string& digest) {
    const v1::Stage view = service.StageView(id, stage);
    ASSERT_EQ(view.attempt_state(), v1::ATTEMPT_STATE_FENCING) << stage << ": " << view.reason();
    service.Open(view.stage_uid(), view.fence(), 1, /*final=*/true);
    ArtifactCommitted answer{view.stage_uid(), view.fence(), absl::OkStatus(), {}};
    answer.response.set_digest(digest);
    answer.response.set_folder("/artifacts/folder");
    answer.response.set_step(1);
    service.Feed(answer);
  };
  const auto wants_reuse = [&service] {
    bool wanted = false;
    for (const Effect& effect : service.TakeEffects()) wanted = wanted || std::holds_alternative<VerifyStep>(effect);
    return wanted;
  };
  const std::string first = service.Submit(OverTheUsersFiles(), "1");
  for (const std::string stage : {"tokens", "index", "train"}) make(first, stage, stage + " 1");
  ASSERT_EQ(service.View(first).state(), v1::JOB_STATE_SUCCEEDED);

  // The files' bytes are as before: what was made of them has the same digest, and training is reused.
  const std::string same = service.Submit(OverTheUsersFiles(), "2");
  make(same, "tokens", "tokens 1");
  make(same, "index", "index 1");
  EXPECT_TRUE(wants_reuse());
  EXPECT_EQ(service.StageView(same, "train").state(), v1::STAGE_STATE_BLOCKED);
  for (const std::string stage : {"tokens", "index"}) {
    EXPECT_EQ(service.StageView(same, stage).state(), v1::STAGE_STATE_SUCCEEDED);
    EXPECT_THAT(service.StageView(same, stage).reason(), HasSubstr("no reuse: it reads files below the data root"));
  }
  ASSERT_TRUE(service.Cancel(same).ok());

  // One file has changed.
  const std::string changed = service.Submit(OverTheUsersFiles(), "3");
  make(changed, "tokens", "tokens 1");
  make(changed, "index", "index 2");
  EXPECT_FALSE(wants_reuse());
  EXPECT_EQ(service.StageView(changed, "train").state(), v1::STAGE_STATE_ACTIVE);
}

TEST(Job, WhatReadsOtherStagesOnlyIsReused) {
  ServiceHarness service;
  service.Connect(service.Hello("a"));
  spec::Job job = OverTheUsersFiles();
  job.stages.resize(1);
  std::get<spec::TokenizerSettings>(job.stages[0].settings).text.resize(1);
  const std::string first = service.Submit(job, "1");
  const v1::Stage made = service.StageView(first, "tokens");
  service.Open(made.stage_uid(), made.fence(), 1, /*final=*/true);
  service.Publish(made.stage_uid(), made.fence());
  ASSERT_EQ(service.StageView(first, "tokens").state(), v1::STAGE_STATE_SUCCEEDED);
  const std::string second = service.Submit(job, "2");
  EXPECT_EQ(service.StageView(second, "tokens").state(), v1::STAGE_STATE_BLOCKED);
  EXPECT_THAT(service.StageView(second, "tokens").reason(), HasSubstr(first));
}

TEST(Job, PagesOfTheListAreStable) {
  ServiceHarness service;
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}), std::to_string(i)));
  }
  v1::ListJobsRequest request;
  request.set_page_size(2);
  std::vector<std::string> seen;
  for (int page = 0; page < 4; ++page) {
    const auto response = service.core().ListJobs(request);
    ASSERT_TRUE(response.ok());
    for (const v1::Job& job : response->jobs()) seen.push_back(job.job_id());
    if (page == 0) service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}), "meanwhile");
    if (response->next_page_token().empty()) break;
    request.set_page_token(response->next_page_token());
  }
  EXPECT_EQ(seen, std::vector<std::string>(ids.rbegin(), ids.rend()));
  request.set_page_token("nonsense");
  EXPECT_EQ(service.core().ListJobs(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Job, AStoreOfANewerFormatIsRefused) {
  Coordinator core(ServiceHarness::Options());
  v1::MetaRecord meta;
  meta.set_format(kStoreFormat + 1);
  ASSERT_TRUE(core.AddRow(kMetaFamily, "meta", meta.SerializeAsString()).ok());
  EXPECT_EQ(core.Start({absl::Seconds(1), absl::UnixEpoch()}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Job, ARowThatDoesNotParseIsNamed) {
  Coordinator core(ServiceHarness::Options());
  const absl::Status status = core.AddRow(kJobFamily, "job-x", "\xff\xff\xff");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("family job, key job-x"));
}

}  // namespace
}  // namespace vlm::coordinator
