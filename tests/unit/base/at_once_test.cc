#include "base/at_once.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace vlm {
namespace {

TEST(ForEachAtOnceTest, DoesEachOnce) {
  for (const int threads : {0, 1, 3, 20}) {
    std::vector<std::atomic<int>> done(11);
    std::atomic<int> outside = 0;
    const absl::Status all = ForEachAtOnce(done.size(), threads, [&](size_t i, int thread) {
      ++done[i];
      if (thread < 0 || thread >= std::max(threads, 1)) ++outside;
      return absl::OkStatus();
    });
    EXPECT_TRUE(all.ok()) << all;
    for (const std::atomic<int>& times : done) EXPECT_EQ(times, 1);
    EXPECT_EQ(outside, 0);
  }
  EXPECT_TRUE(ForEachAtOnce(0, 2, [](size_t, int) { return absl::InternalError("nothing to do"); }).ok());
}

TEST(ForEachAtOnceTest, SeveralAreUnderWayTogether) {
  constexpr int kThreads = 3;
  Mutex mutex;
  CondVar changed;
  int inside = 0;
  const absl::Status met = ForEachAtOnce(kThreads, kThreads, [&](size_t, int) {
    MutexLock lock(&mutex);
    ++inside;
    changed.NotifyAll();
    while (inside < kThreads) changed.Wait(&mutex);  // for ever, if one was alone: CTest ends it
    return absl::OkStatus();
  });
  EXPECT_TRUE(met.ok()) << met;
}

// The second one fails first, while the first is still under way; the first one's error is what is told.
TEST(ForEachAtOnceTest, TellsTheErrorOfTheSmallestAndBeginsNoneAfterOne) {
  Mutex mutex;
  CondVar changed;
  bool failed = false;
  std::atomic<int> begun = 0;
  const absl::Status told = ForEachAtOnce(1000, 2, [&](size_t i, int) {
    ++begun;
    MutexLock lock(&mutex);
    if (i == 1) {
      failed = true;
      changed.NotifyAll();
    }
    while (i == 0 && !failed) changed.Wait(&mutex);
    return absl::InternalError(absl::StrCat("error of ", i));
  });
  EXPECT_EQ(told.message(), "error of 0");
  EXPECT_EQ(begun, 2);
}

}  // namespace
}  // namespace vlm
