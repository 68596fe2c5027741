#include "tests/unit/collectives/collective_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/check.h"
#include "base/file_system.h"

namespace vlm::train {
namespace {

constexpr absl::Duration kConnectDeadline = absl::Minutes(2);

}  // namespace

RankGroup::RankGroup(Transport transport, int world, const std::string& folder) : transport_(transport), world_(world) {
  for (int rank = 0; rank < world; ++rank) {
    const std::string run_folder = folder + "/" + std::to_string(rank);
    VLM_CHECK(MakeDirectories(PosixFileSystem(), run_folder).ok(), "make a run folder");
    absl::StatusOr<std::unique_ptr<PeerListener>> listener = PeerListener::Create(run_folder, "127.0.0.1");
    VLM_CHECK(listener.ok(), std::string(listener.status().message()));
    listeners_.push_back(*std::move(listener));
    peers_.push_back(listeners_.back()->address());
  }
}

absl::StatusOr<std::unique_ptr<Collective>> RankGroup::Connect(int rank, const CollectiveOptions& options) const {
  if (transport_ == Transport::kSingle) return NewSingleRankCollective();
  const MeshIdentity identity = {rank, world_, 7, std::string(32, 's')};
  const bool shared = transport_ == Transport::kSharedMemory;
  VLM_ASSIGN_OR_RETURN(std::vector<UniqueFd> sockets,
                       ConnectMesh(identity, *listeners_[static_cast<size_t>(rank)], peers_,
                                   shared ? MeshTransport::kUnix : MeshTransport::kTcp, 0, {kConnectDeadline}));
  return shared ? NewSharedMemoryCollective(identity, std::move(sockets), options)
                : NewTcpCollective(identity, std::move(sockets), options);
}

std::vector<absl::Status> RunRanks(Transport transport, int world, const CollectiveOptions& options,
                                   const std::function<absl::Status(Collective*)>& body) {
  static std::atomic<int> groups{0};
  const std::string folder = testing::TempDir() + "/ranks-" + std::to_string(getpid()) + "-" + std::to_string(groups++);
  auto group = std::make_unique<RankGroup>(transport, world, folder);
  std::vector<absl::Status> statuses(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      absl::StatusOr<std::unique_ptr<Collective>> collective = group->Connect(rank, options);
      statuses[static_cast<size_t>(rank)] = collective.ok() ? body(collective->get()) : collective.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  group.reset();
  EXPECT_TRUE(RemoveTree(PosixFileSystem(), folder).ok());
  return statuses;
}

}  // namespace vlm::train
