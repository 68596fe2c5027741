#include "coordinator/decision_loop.h"

#include <gtest/gtest.h>

#include <atomic>

#include "base/entropy.h"
#include "rpc/retry.h"
#include "spec/parse.h"
#include "store/simulated_meta_store.h"
#include "tests/integration/coordinator/running_server.h"

namespace vlm::coordinator {
namespace {

// A store whose commits wait until the test lets them through.
class GatedStore final : public store::MetaStore {
 public:
  GatedStore() : inner_(AllFamilies()) {}
  absl::Status Commit(const std::vector<Mutation>& mutations, store::Durability durability) override {
    MutexLock lock(&mutex_);
    ++waiting_;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(&mutex_);
    --waiting_;
    ++commits_;
    if (!failure_.ok()) return failure_;
    return inner_.Commit(mutations, durability);
  }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view family, std::string_view key) const override {
    return inner_.Get(family, key);
  }
  absl::Status ScanFrom(std::string_view family, std::string_view prefix, std::string_view first,
                        const Visitor& visitor) const override {
    return inner_.ScanFrom(family, prefix, first, visitor);
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Fail(absl::Status status) {
    MutexLock lock(&mutex_);
    failure_ = std::move(status);
  }
  void AwaitCommit() {
    MutexLock lock(&mutex_);
    while (waiting_ == 0) changed_.Wait(&mutex_);
  }
  int commits() {
    MutexLock lock(&mutex_);
    return commits_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int commits_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  store::SimulatedMetaStore inner_;
};

// Moved by the test.
class HandClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return absl::Milliseconds(now_ms_.load()); }
  absl::Time Wall() const override { return absl::FromUnixSeconds(1'700'000'000) + Monotonic(); }
  void Advance(absl::Duration by) { now_ms_ += absl::ToInt64Milliseconds(by); }

 private:
  std::atomic<int64_t> now_ms_ = 100'000;
};

v1::SessionRequest HelloOfA() {
  v1::SessionRequest message;
  v1::Hello* hello = message.mutable_hello();
  hello->set_node_id("a");
  hello->set_state_uuid("state of a");
  hello->set_incarnation(1);
  hello->set_protocol_min(kProtocolMin);
  hello->set_protocol_max(kProtocolMax);
  return message;
}

class DecisionLoopTest : public testing::Test {
 protected:
  DecisionLoopTest() : metrics_(&registry_), core_(Options()) {}

  static CoordinatorOptions Options() {
    CoordinatorOptions options;
    options.default_artifacts = "/artifacts";
    options.random_bytes = [](size_t bytes) { return RandomBytes(bytes); };
    return options;
  }

  void StartLoop(DecisionLoopOptions options = {}, const Clock* clock = RealClock()) {
    DecisionLoopDeps deps;
    deps.core = &core_;
    deps.store = &store_;
    deps.clock = clock;
    deps.metrics = &metrics_;
    deps.on_events = [this](const std::vector<v1::Event>& events) {
      events_ += static_cast<int>(events.size());
      for (const v1::Event& event : events) lost_ += event.kind() == "worker.lost";
    };
    deps.perform = [](const Effect&) {};
    deps.on_store_failure = [this](const absl::Status&) { failed_ = true; };
    loop_ = std::make_unique<DecisionLoop>(options, std::move(deps));
    auto started = core_.Start({clock->Monotonic(), clock->Wall()});
    ASSERT_TRUE(started.ok()) << started.status();
    loop_->Start(*std::move(started));
  }

  void Submit(int number, std::function<void(absl::StatusOr<v1::SubmitJobResponse>)> done) {
    spec::Diagnostics diagnostics;
    const std::string yaml = GenerateJob("loop");
    std::optional<spec::Job> job = spec::ParseJob(yaml, "", &diagnostics);
    ASSERT_TRUE(job.has_value()) << diagnostics.ToString();
    loop_->Call<v1::SubmitJobResponse>(
        [&](uint64_t call) { return SubmitJob{call, *job, yaml, "r" + std::to_string(number), "test"}; },
        std::move(done));
  }
  void AwaitAnswers(int count) {
    MutexLock lock(&mutex_);
    while (answered_ < count) changed_.Wait(&mutex_);
  }
  std::function<void(absl::StatusOr<v1::SubmitJobResponse>)> Count() {
    return [this](absl::StatusOr<v1::SubmitJobResponse> response) {
      MutexLock lock(&mutex_);
      ++answered_;
      refused_ += absl::IsResourceExhausted(response.status()) && rpc::RetryDelayOf(response.status()).has_value();
      changed_.NotifyAll();
    };
  }

  telemetry::MetricRegistry registry_;
  CoordinatorMetrics metrics_;
  GatedStore store_;
  Coordinator core_;
  std::atomic<int> events_ = 0;
  std::atomic<int> lost_ = 0;  // events "worker.lost"
  std::atomic<bool> failed_ = false;
  Mutex mutex_;
  CondVar changed_;
  int answered_ ABSL_GUARDED_BY(mutex_) = 0;
  int refused_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<DecisionLoop> loop_;
};

TEST_F(DecisionLoopTest, NothingLeavesBeforeItIsDurable) {
  StartLoop();
  store_.AwaitCommit();  // the start itself
  Submit(1, Count());
  std::atomic<bool> read = false;
  ASSERT_TRUE(loop_->Read([](const Coordinator&) {}, [&] { read = true; }).ok());
  {
    MutexLock lock(&mutex_);
    EXPECT_EQ(answered_, 0);
  }
  EXPECT_EQ(events_, 0);
  EXPECT_FALSE(read);
  store_.Open();
  AwaitAnswers(1);
  EXPECT_GE(events_, 2);
}

TEST_F(DecisionLoopTest, ManyEventsShareOneSync) {
  StartLoop();
  store_.AwaitCommit();
  constexpr int kSubmits = 256;
  for (int i = 0; i < kSubmits; ++i) Submit(i, Count());
  store_.Open();
  AwaitAnswers(kSubmits);
  EXPECT_LT(store_.commits(), kSubmits / 4);
}

TEST_F(DecisionLoopTest, AFullQueueRefusesAtOnce) {
  StartLoop({.calls_max = 8, .messages_max = 16, .batch_max = 4});
  store_.AwaitCommit();
  // One batch is being synced, one is decided and waits: at most 4 calls have left the queue.
  constexpr int kSubmits = 40;
  for (int i = 0; i < kSubmits; ++i) Submit(i, Count());
  {
    MutexLock lock(&mutex_);
    EXPECT_GE(refused_, kSubmits - 8 - 4);
    EXPECT_EQ(refused_, answered_);
  }
  EXPECT_FALSE([&] {
    for (int i = 0; i < 60; ++i) {
      if (!loop_->FromSession(FromWorker{1, {}})) return false;
    }
    return true;
  }()) << "messages of workers are bounded too";
  store_.Open();
  AwaitAnswers(kSubmits);
}

// A sync that takes longer than lease and reattach window together.
TEST_F(DecisionLoopTest, HeartbeatsDoNotWaitBehindTheStore) {
  HandClock clock;
  StartLoop({}, &clock);
  store_.AwaitCommit();
  const auto say = [&](v1::SessionRequest message) {
    ASSERT_TRUE(loop_->FromSession(FromWorker{1, std::move(message)}));
    const absl::Duration end = RealClock()->Monotonic() + kPatience;
    while (loop_->waiting() > 0 && RealClock()->Monotonic() < end) std::this_thread::yield();
    ASSERT_EQ(loop_->waiting(), 0u) << "a message waits behind the store";
  };
  say(HelloOfA());
  v1::SessionRequest beat;
  beat.mutable_beat();
  for (int second = 0; second < 25; ++second) {
    clock.Advance(absl::Seconds(1));
    say(beat);
  }
  store_.Open();
  v1::ListNodesResponse nodes;
  std::atomic<bool> seen = false;
  ASSERT_TRUE(loop_->Read([&](const Coordinator& core) { nodes = core.ListNodes(); }, [&] { seen = true; }).ok());
  const absl::Duration end = RealClock()->Monotonic() + kPatience;
  while (!seen && RealClock()->Monotonic() < end) std::this_thread::yield();
  ASSERT_TRUE(seen);
  ASSERT_EQ(nodes.nodes_size(), 1);
  EXPECT_EQ(nodes.nodes(0).state(), v1::NODE_STATE_LIVE);
  EXPECT_EQ(lost_, 0);
  loop_->Stop();  // before its clock
}

// Silence counts while the store is slow, too: no stall of ours excuses it.
TEST_F(DecisionLoopTest, ASilentWorkerIsLostHoweverSlowTheStore) {
  HandClock clock;
  StartLoop({}, &clock);
  store_.AwaitCommit();
  ASSERT_TRUE(loop_->FromSession(FromWorker{1, HelloOfA()}));
  // Small steps, each seen by the decision thread: a large one would be a stall of ours.
  for (int step = 0; step < 100; ++step) {
    clock.Advance(absl::Milliseconds(250));
    ASSERT_TRUE(loop_->FromSession(FromWorker{2, {}}));  // a stranger wakes it
    const absl::Duration end = RealClock()->Monotonic() + kPatience;
    while (loop_->waiting() > 0 && RealClock()->Monotonic() < end) std::this_thread::yield();
    ASSERT_EQ(loop_->waiting(), 0u);
  }
  store_.Open();
  const absl::Duration end = RealClock()->Monotonic() + kPatience;
  while (lost_ == 0 && RealClock()->Monotonic() < end) std::this_thread::yield();
  EXPECT_EQ(lost_, 1);
  loop_->Stop();
}

TEST_F(DecisionLoopTest, AFailedSyncAnswersNobody) {
  StartLoop();
  store_.AwaitCommit();
  store_.Fail(absl::ResourceExhaustedError("disk full"));
  Submit(1, Count());
  store_.Open();
  const absl::Duration end = RealClock()->Monotonic() + kPatience;
  while (!failed_ && RealClock()->Monotonic() < end) std::this_thread::yield();
  EXPECT_TRUE(failed_);
  EXPECT_EQ(events_, 0);
  loop_->Stop();
  MutexLock lock(&mutex_);
  EXPECT_EQ(answered_, 0);
}

TEST_F(DecisionLoopTest, CallsAfterStopAreRefused) {
  store_.Open();
  StartLoop();
  loop_->Stop();
  absl::Status status;
  Submit(1, [&](absl::StatusOr<v1::SubmitJobResponse> response) { status = response.status(); });
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(absl::IsUnavailable(loop_->Read([](const Coordinator&) {}, [] {})));
}

}  // namespace
}  // namespace vlm::coordinator
