#include "tests/unit/collectives/collective_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/check.h"
#include "base/file_system.h"

namespace vlm::train {
namespace {

absl::StatusOr<std::unique_ptr<Collective>> Connect(Transport transport, const MeshIdentity& identity,
                                                    const PeerListener& listener, const std::vector<PeerAddress>& peers,
                                                    const CollectiveOptions& options) {
  if (transport == Transport::kSingle) return NewSingleRankCollective();
  const bool shared = transport == Transport::kSharedMemory;
  VLM_ASSIGN_OR_RETURN(std::vector<UniqueFd> sockets,
                       ConnectMesh(identity, listener, peers, shared ? MeshTransport::kUnix : MeshTransport::kTcp, 0,
                                   {absl::Seconds(20)}));
  return shared ? NewSharedMemoryCollective(identity, std::move(sockets), options)
                : NewTcpCollective(identity, std::move(sockets), options);
}

}  // namespace

std::vector<absl::Status> RunRanks(Transport transport, int world, const CollectiveOptions& options,
                                   const std::function<absl::Status(Collective*)>& body) {
  static std::atomic<int> groups{0};
  const std::string folder = testing::TempDir() + "/ranks-" + std::to_string(getpid()) + "-" + std::to_string(groups++);
  std::vector<std::unique_ptr<PeerListener>> listeners;
  std::vector<PeerAddress> peers;
  for (int rank = 0; rank < world; ++rank) {
    const std::string run_folder = folder + "/" + std::to_string(rank);
    VLM_CHECK(MakeDirectories(PosixFileSystem(), run_folder).ok(), "make a run folder");
    absl::StatusOr<std::unique_ptr<PeerListener>> listener = PeerListener::Create(run_folder, "127.0.0.1");
    VLM_CHECK(listener.ok(), std::string(listener.status().message()));
    listeners.push_back(*std::move(listener));
    peers.push_back(listeners.back()->address());
  }
  std::vector<absl::Status> statuses(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      const MeshIdentity identity = {rank, world, 7, std::string(32, 's')};
      absl::StatusOr<std::unique_ptr<Collective>> collective =
          Connect(transport, identity, *listeners[static_cast<size_t>(rank)], peers, options);
      statuses[static_cast<size_t>(rank)] = collective.ok() ? body(collective->get()) : collective.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  listeners.clear();
  EXPECT_TRUE(RemoveTree(PosixFileSystem(), folder).ok());
  return statuses;
}

}  // namespace vlm::train
