#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/executor.h"
#include "base/mutex.h"

namespace vlm {
namespace {

// Waits for a number of events without sleeping.
class Latch {
 public:
  explicit Latch(int count) : left_(count) {}
  void Down() {
    MutexLock lock(&mutex_);
    --left_;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(&mutex_);
    while (left_ > 0) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int left_ ABSL_GUARDED_BY(mutex_);
};

TEST(Executor, RunsInPostingOrderOnOneThread) {
  const std::unique_ptr<Executor> executor = NewThreadExecutor("test");
  std::vector<int> order;
  Latch latch(100);
  for (int i = 0; i < 100; ++i) {
    executor->Post([&, i] {
      order.push_back(i);
      latch.Down();
    });
  }
  latch.Wait();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Executor, LaterDueTimesRunLater) {
  const std::unique_ptr<Executor> executor = NewThreadExecutor("test");
  std::vector<int> order;
  Latch latch(4);
  const auto record = [&](int value) {
    return [&, value] {
      order.push_back(value);
      latch.Down();
    };
  };
  executor->Post([&] {  // nothing else runs while these are posted
    executor->PostAfter(absl::Milliseconds(20), record(3));
    executor->PostAfter(absl::Milliseconds(10), record(2));
    executor->PostAfter(absl::Milliseconds(20), record(4));
    executor->Post(record(1));
  });
  latch.Wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4}));
}

TEST(Executor, DestructionDropsWhatIsNotDue) {
  bool ran = false;
  {
    const std::unique_ptr<Executor> executor = NewThreadExecutor("test");
    executor->PostAfter(absl::Hours(1), [&] { ran = true; });
  }
  EXPECT_FALSE(ran);
}

TEST(BoundedQueue, RefusesWhenFullAndDrainsAfterClose) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.Push(2));
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_EQ(queue.Pop(), 1);
  queue.Close();
  EXPECT_FALSE(queue.TryPush(4));
  EXPECT_FALSE(queue.Push(4));
  EXPECT_EQ(queue.Pop(), 2);
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueue, PassesEveryValueOnceBetweenThreads) {
  BoundedQueue<int> queue(3);
  std::vector<std::thread> producers;
  for (int thread = 0; thread < 3; ++thread) {
    producers.emplace_back([&, thread] {
      for (int i = 0; i < 1000; ++i) EXPECT_TRUE(queue.Push(thread * 1000 + i));
    });
  }
  std::vector<bool> seen(3000);
  std::vector<int> last(3, -1);
  for (int i = 0; i < 3000; ++i) {
    const int value = *queue.Pop();
    EXPECT_FALSE(seen[static_cast<size_t>(value)]);
    seen[static_cast<size_t>(value)] = true;
    EXPECT_GT(value % 1000, last[static_cast<size_t>(value / 1000)]);  // a producer's order is kept
    last[static_cast<size_t>(value / 1000)] = value % 1000;
  }
  for (std::thread& producer : producers) producer.join();
}

TEST(BoundedQueue, CloseWakesABlockedProducerAndConsumer) {
  BoundedQueue<int> full(1), empty(1);
  ASSERT_TRUE(full.TryPush(1));
  std::thread producer([&] { EXPECT_FALSE(full.Push(2)); });
  std::thread consumer([&] { EXPECT_EQ(empty.Pop(), std::nullopt); });
  full.Close();
  empty.Close();
  producer.join();
  consumer.join();
}

TEST(Clock, MonotonicNeverGoesBack) {
  absl::Duration last = RealClock()->Monotonic();
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration now = RealClock()->Monotonic();
    ASSERT_GE(now, last);
    last = now;
  }
}

}  // namespace
}  // namespace vlm
