// The shipper on its own thread, against a channel whose streams the test breaks and answers.
#include "worker/telemetry_shipper.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <utility>

#include "base/file_system.h"
#include "base/mutex.h"

namespace vlm::worker {
namespace {

// Waits end after 20 s.
class PlayedChannel final : public rpc::Channel {
 public:
  void Call(std::string_view, std::string, const rpc::CallOptions&, Done done) override {
    done(absl::UnimplementedError("telemetry is a stream"));
  }
  std::unique_ptr<rpc::Stream> Open(std::string_view, const rpc::CallOptions&,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override {
    MutexLock lock(&mutex_);
    receiver_ = std::move(receiver);
    ++opened_;
    changed_.NotifyAll();
    return std::make_unique<PlayedStream>(this);
  }

  // The next batch of points and the size of its message; nothing when none comes.
  std::optional<std::pair<v1::MetricBatch, size_t>> NextBatch() {
    MutexLock lock(&mutex_);
    while (true) {
      while (taken_ < sent_.size()) {
        const std::string& bytes = sent_[taken_++];
        v1::ShipTelemetryRequest request;
        EXPECT_TRUE(request.ParseFromString(bytes));
        if (request.has_metrics()) return std::pair(request.metrics(), bytes.size());
        if (request.has_log()) log_ += request.log().data();
      }
      if (!changed_.WaitFor(&mutex_, absl::Seconds(20))) return std::nullopt;
    }
  }
  // What came of logs before the batch that NextBatch gave last.
  std::string log() {
    MutexLock lock(&mutex_);
    return log_;
  }
  void Grant(uint64_t bytes) {
    v1::ShipTelemetryResponse response;
    response.set_credit_bytes(bytes);
    Answer(response);
  }
  void Answer(const v1::ShipTelemetryResponse& response) { receiver()->OnMessage(response.SerializeAsString()); }
  void Break() {
    const int opened = [this] {
      MutexLock lock(&mutex_);
      return opened_;
    }();
    receiver()->OnClosed(absl::UnavailableError("broken by the test"));
    MutexLock lock(&mutex_);
    while (opened_ == opened) ASSERT_TRUE(changed_.WaitFor(&mutex_, absl::Seconds(20)));
  }
  void WaitUntilOpen() {
    MutexLock lock(&mutex_);
    while (opened_ == 0) ASSERT_TRUE(changed_.WaitFor(&mutex_, absl::Seconds(20)));
  }

 private:
  class PlayedStream final : public rpc::Stream {
   public:
    explicit PlayedStream(PlayedChannel* channel) : channel_(channel) {}
    bool Send(std::string message) override {
      MutexLock lock(&channel_->mutex_);
      channel_->sent_.push_back(std::move(message));
      channel_->changed_.NotifyAll();
      return true;
    }
    void Close(absl::Status) override {}

   private:
    PlayedChannel* const channel_;
  };
  std::shared_ptr<rpc::StreamReceiver> receiver() {
    MutexLock lock(&mutex_);
    return receiver_;
  }

  Mutex mutex_;
  CondVar changed_;
  int opened_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::string> sent_ ABSL_GUARDED_BY(mutex_);
  std::string log_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<rpc::StreamReceiver> receiver_ ABSL_GUARDED_BY(mutex_);
};

class CountingMetrics final : public WorkerMetrics {
 public:
  void SessionChanged(bool) override {}
  void ResultsWaiting(size_t) override {}
  void CallsWaiting(size_t) override {}
  void LogShipped(uint64_t, uint64_t) override {}
  void PointsShipped(uint64_t points, uint64_t dropped) override {
    MutexLock lock(&mutex_);
    shipped_ += points;
    dropped_ += dropped;
    changed_.NotifyAll();
  }
  void RankStarted(const RankLabels&) override {}
  void RankBeat(const RankLabels&, const v1::RankBeat&) override {}
  void RankPoint(const RankLabels&, const v1::MetricPoint&) override {}
  void RankEnded(const RankLabels&, v1::FailureClass) override {}

  bool WaitForShipped(uint64_t points) {
    MutexLock lock(&mutex_);
    while (shipped_ < points) {
      if (!changed_.WaitFor(&mutex_, absl::Seconds(20))) return false;
    }
    return true;
  }
  uint64_t shipped() {
    MutexLock lock(&mutex_);
    return shipped_;
  }
  uint64_t dropped() {
    MutexLock lock(&mutex_);
    return dropped_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  uint64_t shipped_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
};

class TelemetryShipperTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = testing::TempDir() + "/shipper_" + test_name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder).ok());
    shipper_ = std::make_unique<TelemetryShipper>(TelemetryShipper::Parts{.channel = &channel_,
                                                                          .node_id = "node-a",
                                                                          .log_root = folder,
                                                                          .metrics = &metrics_,
                                                                          .jitter = RngKey{1},
                                                                          .note = [](const std::string&) {}});
    shipper_->Start();
    channel_.WaitUntilOpen();
    shipper_->SetCredit(64 << 10);
    shipper_->Begin(rank_, {.job_id = "j", .stage = "sft", .fence = 5, .rank = 0});
  }
  static std::string test_name() { return testing::UnitTest::GetInstance()->current_test_info()->name(); }
  void AddPoint(uint64_t step, uint64_t dropped = 0) {
    v1::MetricBatch batch;
    batch.set_dropped(dropped);
    batch.add_points()->set_series("loss");
    batch.mutable_points(0)->set_step(step);
    shipper_->Points(rank_, std::move(batch));
  }
  // The steps and the count of dropped points of the next batch.
  std::pair<std::vector<uint64_t>, uint64_t> Next() {
    const auto batch = channel_.NextBatch();
    if (!batch.has_value()) {
      ADD_FAILURE() << "no points came";
      return {};
    }
    bytes_ = batch->second;
    std::vector<uint64_t> steps;
    for (const v1::MetricPoint& point : batch->first.points()) steps.push_back(point.step());
    return {steps, batch->first.dropped()};
  }

  const RankKey rank_{"aa/5", 5, 0};
  PlayedChannel channel_;
  CountingMetrics metrics_;
  std::unique_ptr<TelemetryShipper> shipper_;
  size_t bytes_ = 0;  // of the newest batch
};

using Batch = std::pair<std::vector<uint64_t>, uint64_t>;

// Another process of this worker wrote them, and a disk may have rotted them since.
TEST_F(TelemetryShipperTest, LogsThatSayNothingOfThemselvesAreLeftAlone) {
  shipper_.reset();
  const std::string folder = testing::TempDir() + "/shipper_" + test_name();
  int number = 0;
  for (const char* about : {"null", "[]", "{}", R"({"job_id": null, "stage": "s", "fence": 1, "rank": 0})",
                            R"({"job_id": "j", "stage": "s", "fence": "1", "rank": 0})",
                            R"({"job_id": "j", "stage": "s", "fence": 1, "rank": -1})"}) {
    const std::string log = folder + "/log-" + std::to_string(number++);
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), log).ok());
    ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), log + "/about.json", about).ok());
  }
  std::atomic<int> left = 0;
  PlayedChannel channel;
  TelemetryShipper shipper({.channel = &channel,
                            .node_id = "node-a",
                            .log_root = folder,
                            .metrics = &metrics_,
                            .jitter = RngKey{1},
                            .note = [&left](const std::string& text) { left += text.starts_with("leaving a log"); }});
  shipper.Start();
  channel.WaitUntilOpen();
  EXPECT_EQ(left, number);
}

TEST_F(TelemetryShipperTest, PointsOfABrokenStreamAreSentAgain) {
  AddPoint(1, /*dropped=*/3);
  EXPECT_EQ(Next(), Batch({1}, 3));
  channel_.Break();
  EXPECT_EQ(Next(), Batch({1}, 3)) << "nobody said that it was handled";
  EXPECT_EQ(metrics_.shipped(), 0u);
  channel_.Grant(bytes_);
  ASSERT_TRUE(metrics_.WaitForShipped(1));
  EXPECT_EQ(metrics_.dropped(), 3u) << "counted once";
}

TEST_F(TelemetryShipperTest, WhatWasHandledIsNotSentAgain) {
  AddPoint(1);
  EXPECT_EQ(Next(), Batch({1}, 0));
  const size_t first = bytes_;
  AddPoint(2);
  EXPECT_EQ(Next(), Batch({2}, 0));
  channel_.Grant(first);
  ASSERT_TRUE(metrics_.WaitForShipped(1));
  channel_.Break();
  EXPECT_EQ(Next(), Batch({2}, 0));
  AddPoint(3);
  EXPECT_EQ(Next(), Batch({3}, 0)) << "in order, none twice";
}

TEST_F(TelemetryShipperTest, PointsOfAnEndedRankWaitForTheirCreditToo) {
  AddPoint(1);
  EXPECT_EQ(Next(), Batch({1}, 0));
  shipper_->End(rank_);
  channel_.Break();
  EXPECT_EQ(Next(), Batch({1}, 0));
  channel_.Grant(bytes_);
  EXPECT_TRUE(metrics_.WaitForShipped(1));
}

// Answers that no coordinator of ours gives; a worker must not stand still, or take its own words for heard, for them.

TEST_F(TelemetryShipperTest, CreditBeyondAllBoundsIsCreditAllTheSame) {
  AddPoint(1);
  EXPECT_EQ(Next(), Batch({1}, 0));
  channel_.Grant(UINT64_MAX - (64 << 10) + bytes_ + 1);  // what is left plus this is 2^64
  AddPoint(2);
  EXPECT_EQ(Next(), Batch({2}, 0));
}

TEST_F(TelemetryShipperTest, CreditForMoreThanWasSentSettlesNothingThatIsSentLater) {
  AddPoint(1);
  EXPECT_EQ(Next(), Batch({1}, 0));
  channel_.Grant(100 * bytes_);
  ASSERT_TRUE(metrics_.WaitForShipped(1));
  AddPoint(2);
  EXPECT_EQ(Next(), Batch({2}, 0));
  channel_.Grant(0);
  channel_.Break();
  EXPECT_EQ(Next(), Batch({2}, 0)) << "nobody said that it was handled";
}

TEST_F(TelemetryShipperTest, BytesThatWereNeverPrintedAreNotTakenForStored) {
  v1::ShipTelemetryResponse response;
  v1::LogAcknowledged& log = *response.add_logs();
  log.set_job_id("j");
  log.set_stage("sft");
  log.set_fence(5);
  log.set_offset(UINT64_MAX);
  shipper_->Output(rank_, "one\n");
  AddPoint(1);
  EXPECT_EQ(Next(), Batch({1}, 0));
  channel_.Answer(response);
  shipper_->Output(rank_, "two\n");
  AddPoint(2);
  EXPECT_EQ(Next(), Batch({2}, 0));
  EXPECT_EQ(channel_.log(), "one\ntwo\n");
}

}  // namespace
}  // namespace vlm::worker
