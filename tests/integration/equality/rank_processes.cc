#include "tests/integration/equality/rank_processes.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "tests/unit/train/must.h"

namespace vlm::train {

void RunRankProcesses(Transport transport, int world, const std::string& folder,
                      const std::function<void(Collective*)>& body) {
  const RankGroup group(world == 1 ? Transport::kSingle : transport, world, folder);
  std::vector<pid_t> processes;
  for (int rank = 0; rank < world; ++rank) {
    const pid_t process = fork();
    ASSERT_GE(process, 0);
    if (process == 0) {
      body(Must(group.Connect(rank, {})).get());
      std::fflush(nullptr);
      _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    processes.push_back(process);
  }
  for (int rank = 0; rank < world; ++rank) {
    int status = 0;
    ASSERT_EQ(waitpid(processes[static_cast<size_t>(rank)], &status, 0), processes[static_cast<size_t>(rank)]);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "rank " << rank << " ended with " << status;
  }
}

}  // namespace vlm::train
