#include "train/collectives/peer_mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/file_system.h"

namespace vlm::train {
namespace {

class PeerMeshTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/mesh-" + std::to_string(getpid());
    for (int rank = 0; rank < 2; ++rank) {
      const std::string run = folder_ + "/" + std::to_string(rank);
      ASSERT_TRUE(MakeDirectories(PosixFileSystem(), run).ok());
      listeners_.push_back(*PeerListener::Create(run, "127.0.0.1"));
      peers_.push_back(listeners_.back()->address());
    }
  }
  void TearDown() override {
    listeners_.clear();
    EXPECT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
  }
  std::string folder_;
  std::vector<std::unique_ptr<PeerListener>> listeners_;
  std::vector<PeerAddress> peers_;
};

TEST_F(PeerMeshTest, AStrangerWithoutTheSecretIsRefused) {
  absl::Status honest, stranger;
  std::thread server([&] {
    honest = ConnectMesh({0, 2, 5, "right secret"}, *listeners_[0], peers_, MeshTransport::kTcp, 0,
                         {absl::Milliseconds(500)})
                 .status();
  });
  std::thread client([&] {
    stranger = ConnectMesh({1, 2, 5, "wrong secret"}, *listeners_[1], peers_, MeshTransport::kTcp, 0,
                           {absl::Milliseconds(400)})
                   .status();
  });
  server.join();
  client.join();
  EXPECT_EQ(honest.code(), absl::StatusCode::kDeadlineExceeded) << honest;
  EXPECT_THAT(std::string(honest.message()), ::testing::HasSubstr("1"));
  EXPECT_FALSE(stranger.ok());
}

TEST_F(PeerMeshTest, ARankOfAnEarlierAttemptIsRefused) {
  absl::Status current, old;
  std::thread server([&] {
    current =
        ConnectMesh({0, 2, 6, "secret"}, *listeners_[0], peers_, MeshTransport::kUnix, 0, {absl::Milliseconds(500)})
            .status();
  });
  std::thread client([&] {
    old = ConnectMesh({1, 2, 5, "secret"}, *listeners_[1], peers_, MeshTransport::kUnix, 0, {absl::Milliseconds(400)})
              .status();
  });
  server.join();
  client.join();
  EXPECT_FALSE(current.ok());
  EXPECT_FALSE(old.ok());
}

TEST_F(PeerMeshTest, ChannelsOfOneAttemptAreKeptApart) {
  absl::Status statuses[2];
  auto connect_both = [&](int rank) {
    for (const uint32_t channel : {0u, 1u}) {
      const absl::StatusOr<std::vector<UniqueFd>> mesh =
          ConnectMesh({rank, 2, 5, "secret"}, *listeners_[static_cast<size_t>(rank)], peers_, MeshTransport::kUnix,
                      channel, {absl::Seconds(20)});
      if (!mesh.ok()) {
        statuses[rank] = mesh.status();
        return;
      }
      const char mine = static_cast<char>('a' + channel);
      char theirs = 0;
      const int fd = (*mesh)[static_cast<size_t>(1 - rank)].get();
      EXPECT_TRUE(SendAll(fd, &mine, 1, {absl::Seconds(5)}).ok());
      EXPECT_TRUE(ReceiveAll(fd, &theirs, 1, {absl::Seconds(5)}).ok());
      EXPECT_EQ(theirs, mine);
    }
  };
  std::thread first(connect_both, 0), second(connect_both, 1);
  first.join();
  second.join();
  EXPECT_TRUE(statuses[0].ok()) << statuses[0];
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
}

TEST_F(PeerMeshTest, ARunFolderWithAPathTooLongIsNamed) {
  const absl::Status status = PeerListener::Create("/tmp/" + std::string(120, 'x'), "127.0.0.1").status();
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("too long"));
}

}  // namespace
}  // namespace vlm::train
