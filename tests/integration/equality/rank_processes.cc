#include "tests/integration/equality/rank_processes.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "base/file_system.h"
#include "tests/unit/train/must.h"

namespace vlm::train {
namespace {

constexpr absl::Duration kConnectDeadline = absl::Minutes(2);

std::unique_ptr<Collective> Connect(Transport transport, const MeshIdentity& identity, const PeerListener& listener,
                                    const std::vector<PeerAddress>& peers) {
  if (identity.world == 1) return NewSingleRankCollective();
  const bool shared = transport == Transport::kSharedMemory;
  std::vector<UniqueFd> sockets = Must(ConnectMesh(
      identity, listener, peers, shared ? MeshTransport::kUnix : MeshTransport::kTcp, 0, {kConnectDeadline}));
  return Must(shared ? NewSharedMemoryCollective(identity, std::move(sockets), {})
                     : NewTcpCollective(identity, std::move(sockets), {}));
}

}  // namespace

void RunRankProcesses(Transport transport, int world, const std::string& folder,
                      const std::function<void(Collective*)>& body) {
  std::vector<std::unique_ptr<PeerListener>> listeners;
  std::vector<PeerAddress> peers;
  for (int rank = 0; rank < world; ++rank) {
    const std::string run_folder = folder + "/" + std::to_string(rank);
    Must(MakeDirectories(PosixFileSystem(), run_folder));
    listeners.push_back(Must(PeerListener::Create(run_folder, "127.0.0.1")));
    peers.push_back(listeners.back()->address());
  }
  std::vector<pid_t> processes;
  for (int rank = 0; rank < world; ++rank) {
    const pid_t process = fork();
    ASSERT_GE(process, 0);
    if (process == 0) {
      const MeshIdentity identity = {rank, world, 7, std::string(32, 's')};
      body(Connect(transport, identity, *listeners[static_cast<size_t>(rank)], peers).get());
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
