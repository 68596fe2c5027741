#include "coordinator/event_watch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "coordinator/core/row_keys.h"
#include "store/simulated_meta_store.h"
#include "tests/integration/coordinator/running_server.h"

namespace vlm::coordinator {
namespace {

constexpr char kJob[] = "job-1";

// Runs what is due when the test says so; each function takes `cost`.
class HandExecutor final : public Executor {
 public:
  void Post(std::function<void()> function) override { PostAfter(absl::ZeroDuration(), std::move(function)); }
  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    due_.emplace(now_ + delay, std::move(function));
  }
  // One function; false when none is left up to `end`.
  bool RunOne(absl::Duration end) {
    if (due_.empty() || due_.begin()->first > end) return false;
    now_ = std::max(now_, due_.begin()->first);
    due_.extract(due_.begin()).mapped()();
    now_ += cost_;
    return true;
  }
  absl::Duration now() const { return now_; }
  void SetCost(absl::Duration cost) { cost_ = cost; }

 private:
  absl::Duration now_;
  absl::Duration cost_;
  std::multimap<absl::Duration, std::function<void()>> due_;
};

// Takes `capacity` messages until the test makes room.
class Wire final : public rpc::Stream {
 public:
  explicit Wire(size_t capacity) : capacity_(capacity) {}
  bool Send(std::string message) override {
    if (closed_ || messages_.size() >= capacity_) return false;
    EXPECT_TRUE(messages_.emplace_back().ParseFromString(message));
    return true;
  }
  void Close(absl::Status) override { closed_ = true; }
  void MakeRoom(size_t messages) { capacity_ += messages; }
  const std::vector<v1::WatchEventsResponse>& messages() const { return messages_; }
  bool closed() const { return closed_; }

 private:
  size_t capacity_;
  std::vector<v1::WatchEventsResponse> messages_;
  bool closed_ = false;
};

class EventWatchTest : public testing::Test {
 protected:
  EventWatchTest() : metrics_(&metric_registry_), core_(Options()), loop_(DecisionLoopOptions(), Deps()) {
    EXPECT_TRUE(store_.Commit({{std::string(kJobFamily), kJob, "row"}}, store::Durability::kSynced).ok());
    EventWatchOptions options;
    options.store_uuid = std::string(16, 'u');
    options.tick = absl::Milliseconds(1);
    options.heartbeat = absl::Milliseconds(1);
    watch_ = std::make_unique<EventWatch>(options, &store_, &loop_, &thread_, &metrics_);
    watch_->Register(&registry_);
    watch_->Start();
  }

  static CoordinatorOptions Options() {
    CoordinatorOptions options;
    options.default_artifacts = "/artifacts";
    options.random_bytes = [](size_t bytes) { return RandomBytes(bytes); };
    return options;
  }
  DecisionLoopDeps Deps() {
    DecisionLoopDeps deps;
    deps.core = &core_;
    deps.store = &store_;
    deps.clock = RealClock();
    deps.metrics = &metrics_;
    return deps;
  }

  void Add(int events) {
    for (int i = 0; i < events; ++i) {
      v1::Event event;
      event.set_sequence(++last_);
      event.set_job_id(kJob);
      const std::vector<Mutation> rows = {{std::string(kEventFamily), EventKey(last_), event.SerializeAsString()},
                                          {std::string(kJobEventFamily), JobEventKey(kJob, last_), ""}};
      ASSERT_TRUE(store_.Commit(rows, store::Durability::kUnsynced).ok());
    }
  }
  std::shared_ptr<Wire> Watch(size_t capacity) {
    auto wire = std::make_shared<Wire>(capacity);
    v1::WatchEventsRequest request;
    request.set_job_id(kJob);
    const auto receiver = registry_.streams["/vlm.v1.JobService/WatchEvents"]({}, wire);
    receiver->OnMessage(request.SerializeAsString());
    return wire;
  }
  void RunFor(absl::Duration time) {
    const absl::Duration end = thread_.now() + time;
    while (thread_.RunOne(end)) {
    }
  }

  telemetry::MetricRegistry metric_registry_;
  CoordinatorMetrics metrics_;
  store::SimulatedMetaStore store_{AllFamilies()};
  Coordinator core_;
  DecisionLoop loop_;  // never started: progress is asked for and never told
  HandExecutor thread_;
  rpc::ServiceRegistry registry_;
  std::unique_ptr<EventWatch> watch_;
  uint64_t last_ = 0;
};

// Up to the first heartbeat.
size_t EventsBeforeTheHeartbeat(const Wire& wire) {
  size_t events = 0;
  for (const v1::WatchEventsResponse& message : wire.messages()) {
    if (message.has_heartbeat()) return events;
    EXPECT_EQ(message.event().sequence(), ++events);
  }
  ADD_FAILURE() << "no heartbeat after " << events << " events";
  return events;
}

TEST_F(EventWatchTest, AHeartbeatComesOnlyAfterEveryEventSoFar) {
  Add(2000);
  const auto wire = Watch(5000);
  thread_.SetCost(absl::Milliseconds(1));  // a tick, with its heartbeat, comes between any two passes over the store
  RunFor(absl::Milliseconds(50));
  EXPECT_EQ(EventsBeforeTheHeartbeat(*wire), 2000u);
}

TEST_F(EventWatchTest, AHeartbeatTellsAtOnceThatThereIsNoMore) {
  Add(3);
  const auto wire = Watch(5000);
  RunFor(absl::ZeroDuration());
  EXPECT_EQ(EventsBeforeTheHeartbeat(*wire), 3u);
  EXPECT_EQ(wire->messages().size(), 4u);
}

TEST_F(EventWatchTest, ASlowReaderIsSentNothingButEventsUntilItHasThemAll) {
  Add(1200);
  const auto wire = Watch(100);
  for (int i = 0; i < 20; ++i) {
    RunFor(absl::Milliseconds(3));
    wire->MakeRoom(100);
  }
  RunFor(absl::Milliseconds(3));
  EXPECT_EQ(EventsBeforeTheHeartbeat(*wire), 1200u);
  EXPECT_FALSE(wire->closed());
}

TEST_F(EventWatchTest, AReaderThatTakesNothingIsSentAway) {
  Add(1200);
  const auto wire = Watch(100);
  RunFor(absl::Milliseconds(20));
  EXPECT_TRUE(wire->closed());
}

}  // namespace
}  // namespace vlm::coordinator
