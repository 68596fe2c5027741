// Rows that no coordinator has written: a start names them, before a decision believes what they say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>

#include "tests/unit/coordinator/service_harness.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;
using Rows = std::map<std::string, std::map<std::string, std::string>>;

absl::Status Start(const Rows& rows) {
  Coordinator core(ServiceHarness::Options());
  for (const std::string& family : RestoredFamilies()) {
    const auto found = rows.find(family);
    if (found == rows.end()) continue;
    for (const auto& [key, value] : found->second) {
      if (absl::Status added = core.AddRow(family, key, value); !added.ok()) return added;
    }
  }
  return core.Start({absl::Seconds(1'000), absl::FromUnixSeconds(1'800'000'000)}).status();
}

// A pool with a shard done and one in work, a stage that waits for it, and a job that has succeeded.
class DamagedRows : public testing::Test {
 protected:
  void SetUp() override {
    ServiceHarness service;
    const uint64_t a = service.Connect(service.Hello("a"));
    const std::string done = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}), "done");
    service.Open(service.StageView(done, "train").stage_uid(), 1, 100, /*final=*/true);
    service.Publish(service.StageView(done, "train").stage_uid(), 1);
    spec::Stage next = ServiceHarness::Gang("next", {"make"});
    job_id_ = service.Submit(ServiceHarness::Job({ServiceHarness::Pool("make", 3), next}), "running");
    service.RunAttempt(job_id_, "make", {a});
    uid_ = service.StageView(job_id_, "make").stage_uid();
    next_uid_ = service.StageView(job_id_, "next").stage_uid();
    LeaseShards lease{900, "a", {}};
    lease.request.set_stage_uid(uid_);
    lease.request.set_fence(1);
    lease.request.set_count(1);
    const Reply leased = service.Call(lease, 900);
    ASSERT_TRUE(leased.status.ok()) << leased.status;
    CommitShard commit{901, "a", {}};
    commit.request.set_stage_uid(uid_);
    commit.request.set_fence(1);
    commit.request.set_lease_id(std::get<v1::LeaseShardsResponse>(leased.response).leases(0).lease_id());
    ASSERT_TRUE(service.Call(commit, 901).status.ok());
    rows_ = service.rows();
    ASSERT_TRUE(Start(rows_).ok()) << Start(rows_);
  }

  std::string& Row(std::string_view family, const std::string& key) { return rows_.at(std::string(family)).at(key); }
  template <typename Record>
  void Change(std::string_view family, const std::string& key, const std::function<void(Record*)>& change) {
    Record record;
    ASSERT_TRUE(record.ParseFromString(Row(family, key)));
    change(&record);
    Row(family, key) = record.SerializeAsString();
  }
  void Move(std::string_view family, const std::string& from, const std::string& to) {
    auto node = rows_.at(std::string(family)).extract(from);
    node.key() = to;
    rows_.at(std::string(family)).insert(std::move(node));
  }
  void ExpectRefused(const std::string& words) {
    const absl::Status started = Start(rows_);
    EXPECT_EQ(started.code(), absl::StatusCode::kDataLoss) << started;
    EXPECT_THAT(std::string(started.message()), HasSubstr("backup"));
    EXPECT_THAT(std::string(started.message()), HasSubstr(words));
  }

  Rows rows_;
  std::string job_id_, uid_, next_uid_;
};

TEST_F(DamagedRows, EveryFamilyIsParsed) {
  const Rows whole = rows_;
  for (const std::string& family : RestoredFamilies()) {
    if (family == kStageSpecFamily) continue;  // text
    ASSERT_FALSE(whole.at(family).empty()) << family;
    rows_ = whole;
    rows_.at(family).begin()->second = "\xff\xff\xff";
    ExpectRefused("family " + family);
  }
}

TEST_F(DamagedRows, AJobUnderAnotherKey) {
  Move(kJobFamily, job_id_, job_id_ + "x");
  ExpectRefused("job row under another key " + job_id_ + "x");
}

TEST_F(DamagedRows, AJobWithoutAStageOfIts) {
  rows_.at(std::string(kStageFamily)).erase(uid_);
  ExpectRefused("no stage row");  // its attempt and shards are there
}

TEST_F(DamagedRows, AStageWithoutAnyRow) {
  for (const std::string_view family : {kStageFamily, kStageSpecFamily}) rows_.at(std::string(family)).erase(next_uid_);
  ExpectRefused("no stage row");
}

TEST_F(DamagedRows, AStageWithoutAJob) {
  rows_.at(std::string(kJobFamily)).erase(job_id_);
  ExpectRefused("rows of a stage without a job");
}

TEST_F(DamagedRows, AShardOfNoStage) {
  rows_.at(std::string(kShardFamily))[ShardKey(std::string(16, 'x'), 0)] = "";
  ExpectRefused("rows of a stage without a job xxxxxxxxxxxxxxxx");
}

TEST_F(DamagedRows, AShardKeyThatIsTooShort) {
  rows_.at(std::string(kShardFamily))["abc"] = "";
  ExpectRefused("shard key abc");
}

TEST_F(DamagedRows, AnActiveStageWithoutItsAttempt) {
  rows_.at(std::string(kAttemptFamily)).erase(uid_);
  ExpectRefused("ACTIVE and a live attempt go together");
}

TEST_F(DamagedRows, AStageThatIsNotActiveBesideItsAttempt) {
  Change<v1::StageRecord>(kStageFamily, uid_, [](v1::StageRecord* stage) { stage->set_state(v1::STAGE_STATE_FAILED); });
  ExpectRefused("ACTIVE and a live attempt go together");
}

TEST_F(DamagedRows, AnAttemptOfAnotherStageOrFence) {
  const Rows whole = rows_;
  Change<v1::AttemptRecord>(kAttemptFamily, uid_, [this](v1::AttemptRecord* row) { row->set_stage_uid(next_uid_); });
  ExpectRefused("attempt that is not of stage");
  rows_ = whole;
  Change<v1::AttemptRecord>(kAttemptFamily, uid_, [](v1::AttemptRecord* attempt) { attempt->set_fence(2); });
  ExpectRefused("attempt that is not of stage");
  rows_ = whole;
  Change<v1::AttemptRecord>(kAttemptFamily, uid_, [](v1::AttemptRecord* attempt) { attempt->clear_state(); });
  ExpectRefused("attempt that is not of stage");
}

TEST_F(DamagedRows, AStateOfNoVersion) {
  for (const int state : {0, 77}) {
    Change<v1::StageRecord>(kStageFamily, next_uid_,
                            [state](v1::StageRecord* stage) { stage->set_state(static_cast<v1::StageState>(state)); });
    ExpectRefused("state of no version");
  }
}

TEST_F(DamagedRows, AJobWhoseStateDoesNotFollow) {
  Change<v1::JobRecord>(kJobFamily, job_id_, [](v1::JobRecord* job) { job->set_state(v1::JOB_STATE_SUCCEEDED); });
  ExpectRefused("state that does not follow from its stages, of job " + job_id_);
}

TEST_F(DamagedRows, AParentThatIsNot) {
  const Rows whole = rows_;
  Change<v1::StageRecord>(kStageFamily, next_uid_, [](v1::StageRecord* stage) { stage->set_needs(0, "mkae"); });
  ExpectRefused("no such parent of a stage: mkae");
  rows_ = whole;
  Change<v1::StageRecord>(kStageFamily, next_uid_, [](v1::StageRecord* stage) { stage->add_inputs("mkae"); });
  ExpectRefused("no such parent of a stage: mkae");
}

TEST_F(DamagedRows, ARankOnAWorkerThatIsNot) {
  rows_.at(std::string(kNodeFamily)).erase("a");
  ExpectRefused("no row of a rank's worker a");
}

}  // namespace
}  // namespace vlm::coordinator
