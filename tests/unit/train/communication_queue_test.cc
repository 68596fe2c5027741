#include "train/communication_queue.h"

#include <gtest/gtest.h>

#include <new>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/out_of_memory.h"

namespace vlm::train {
namespace {

class CommunicationQueueTest : public testing::TestWithParam<bool> {
 protected:
  CommunicationQueue queue_{GetParam(), RealClock()};
};

TEST_P(CommunicationQueueTest, RunsInOrderOfSubmission) {
  std::vector<int> order;
  std::vector<Ticket> tickets;
  for (int i = 0; i < 500; ++i) {
    tickets.push_back(queue_.Submit([&order, i] {
      order.push_back(i);
      return absl::OkStatus();
    }));
  }
  ASSERT_TRUE(queue_.Drain().ok());
  ASSERT_EQ(order.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  for (const Ticket& ticket : tickets) EXPECT_TRUE(ticket.Done());
}

TEST_P(CommunicationQueueTest, NothingRunsAfterAnError) {
  int runs = 0;
  const Ticket bad = queue_.Submit([] { return absl::UnavailableError("peer died"); });
  const Ticket after = queue_.Submit([&runs] {
    ++runs;
    return absl::OkStatus();
  });
  EXPECT_EQ(queue_.Wait(bad).message(), "peer died");
  EXPECT_EQ(queue_.Wait(after).message(), "peer died");
  EXPECT_EQ(queue_.Drain().message(), "peer died");
  EXPECT_EQ(runs, 0);
}

TEST_P(CommunicationQueueTest, WhatACallThrowsIsItsError) {
  const Ticket bad = queue_.Submit([]() -> absl::Status { throw std::bad_alloc(); });
  const Ticket after = queue_.Submit([] { return absl::OkStatus(); });
  EXPECT_TRUE(IsOutOfMemory(queue_.Wait(bad))) << queue_.Wait(bad);
  EXPECT_EQ(queue_.Wait(after), queue_.Wait(bad));
}

TEST_P(CommunicationQueueTest, OverlapMeansAnotherThread) {
  std::thread::id id;
  ASSERT_TRUE(queue_
                  .Wait(queue_.Submit([&id] {
                    id = std::this_thread::get_id();
                    return absl::OkStatus();
                  }))
                  .ok());
  EXPECT_EQ(id == std::this_thread::get_id(), !GetParam());
}

TEST_P(CommunicationQueueTest, DefaultTicketIsComplete) {
  EXPECT_TRUE(Ticket().Done());
  EXPECT_TRUE(queue_.Wait(Ticket()).ok());
  EXPECT_TRUE(queue_.Drain().ok());
}

INSTANTIATE_TEST_SUITE_P(Overlap, CommunicationQueueTest, testing::Bool());

}  // namespace
}  // namespace vlm::train
