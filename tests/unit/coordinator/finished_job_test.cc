// What a finished job leaves behind in the store, for docs/decisions/0006.
#include <gtest/gtest.h>
#include <malloc.h>

#include <iostream>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/unit/coordinator/service_harness.h"

namespace vlm::coordinator {
namespace {

constexpr int kStages = 7;
constexpr uint32_t kShards = 4;
constexpr uint64_t kCommits = 5;

// Four pools and three gangs in a row, as examples/shapes has them.
spec::Job JobOfSevenStages(int number) {
  std::vector<spec::Stage> stages;
  for (int i = 0; i < kStages; ++i) {
    const std::string name = absl::StrCat("stage-", i);
    stages.push_back(i < 4 ? ServiceHarness::Pool(name, kShards, {1, 1}) : ServiceHarness::Gang(name, {}, {1, 1}));
    stages.back().seed = static_cast<uint64_t>(number);
    if (i > 0) stages.back().needs = {stages[stages.size() - 2].name};
  }
  return ServiceHarness::Job(std::move(stages));
}

class FinishedJob : public testing::Test {
 protected:
  void DoShards(const v1::Stage& stage) {
    for (uint32_t done = 0; done <= kShards; ++done) {  // the last is the finish task
      LeaseShards lease{++call_, "a", {}};
      lease.request.set_stage_uid(stage.stage_uid());
      lease.request.set_fence(stage.fence());
      lease.request.set_count(1);
      const Reply reply = service_.Call(lease, call_);
      ASSERT_TRUE(reply.status.ok()) << reply.status;
      const auto& leases = std::get<v1::LeaseShardsResponse>(reply.response).leases();
      ASSERT_EQ(leases.size(), 1);
      CommitShard commit{++call_, "a", {}};
      commit.request.set_stage_uid(stage.stage_uid());
      commit.request.set_fence(stage.fence());
      commit.request.set_shard(leases[0].shard());
      commit.request.set_lease_id(leases[0].lease_id());
      commit.request.mutable_output()->set_file(std::string(100, 'f'));
      commit.request.mutable_output()->set_digest(std::string(64, 'd'));
      ASSERT_TRUE(service_.Call(commit, call_).status.ok());
    }
  }
  void RunToTheEnd(const std::string& id) {
    for (int i = 0; i < kStages; ++i) {
      const std::string name = absl::StrCat("stage-", i);
      service_.RunAttempt(id, name, {session_});
      const v1::Stage stage = service_.StageView(id, name);
      if (i < 4) {
        DoShards(stage);
      } else {
        for (uint64_t step = 1; step <= kCommits; ++step) {
          service_.Feed(StepCommitted{stage.stage_uid(), stage.fence(), step});
        }
      }
      service_.Exit(session_, service_.AttemptOf(id, name), 0, 0);
      service_.Publish(stage.stage_uid(), stage.fence());
    }
    ASSERT_EQ(service_.View(id).state(), v1::JOB_STATE_SUCCEEDED);
  }
  // Key and value bytes by family; `*rows` in all.
  std::map<std::string, uint64_t> Bytes(uint64_t* rows) const {
    std::map<std::string, uint64_t> bytes;
    *rows = 0;
    for (const auto& [family, entries] : service_.rows()) {
      *rows += entries.size();
      for (const auto& [key, value] : entries) bytes[family] += key.size() + value.size();
    }
    return bytes;
  }

  ServiceHarness service_;
  uint64_t session_ = service_.Connect(service_.Hello("a"));
  uint64_t call_ = 1000;
};

TEST_F(FinishedJob, LeavesABoundedNumberOfRowsAndBytes) {
  uint64_t rows_before = 0, rows = 0;
  const std::map<std::string, uint64_t> before = Bytes(&rows_before);
  RunToTheEnd(service_.Submit(JobOfSevenStages(0)));
  std::map<std::string, uint64_t> after = Bytes(&rows);
  uint64_t total = 0;
  for (auto& [family, bytes] : after) {
    const auto it = before.find(family);
    if (it != before.end()) bytes -= std::min(bytes, it->second);
    total += bytes;
    std::cout << "  " << family << ": " << bytes << " bytes\n";
  }
  rows -= rows_before;
  std::cout << "a finished job of " << kStages << " stages without failures: " << rows << " rows, " << total
            << " bytes\n";
  EXPECT_LT(rows, 300u);
  EXPECT_LT(total, 40'000u);
}

// For a person: --gtest_also_run_disabled_tests --gtest_filter='FinishedJob.*'
TEST_F(FinishedJob, DISABLED_MemoryAndTimeOfAStart) {
  constexpr int kJobs = 50;
  for (int i = 0; i < kJobs; ++i) RunToTheEnd(service_.Submit(JobOfSevenStages(i), absl::StrCat("request-", i)));
  const size_t before = mallinfo2().uordblks;
  const absl::Duration begun = RealClock()->Monotonic();
  Coordinator core(ServiceHarness::Options());
  for (const std::string& family : RestoredFamilies()) {
    const auto rows = service_.rows().find(family);
    if (rows == service_.rows().end()) continue;
    for (const auto& [key, value] : rows->second) ASSERT_TRUE(core.AddRow(family, key, value).ok());
  }
  ASSERT_TRUE(core.Start({absl::Seconds(1'000'000), absl::FromUnixSeconds(1'800'000'000)}).ok());
  const absl::Duration time = RealClock()->Monotonic() - begun;
  EXPECT_EQ(core.Count().jobs["succeeded"], kJobs);
  std::cout << "a finished job in memory: " << (mallinfo2().uordblks - before) / kJobs << " bytes, "
            << absl::FormatDuration(time / kJobs) << " of a start\n";
}

}  // namespace
}  // namespace vlm::coordinator
