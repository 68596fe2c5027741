#include "rpc/address.h"

#include <gtest/gtest.h>

namespace vlm::rpc {
namespace {

TEST(AddressTest, AcceptsLoopbackAndUnixSockets) {
  EXPECT_EQ(ParseAddress("127.0.0.1:7000")->target, "127.0.0.1:7000");
  EXPECT_EQ(ParseAddress("127.0.0.1:7000")->port, 7000);
  EXPECT_EQ(ParseAddress("127.9.8.7:0")->port, 0);
  EXPECT_EQ(ParseAddress("[::1]:80")->target, "[::1]:80");
  EXPECT_EQ(ParseAddress("localhost:80")->target, "127.0.0.1:80");
  EXPECT_EQ(ParseAddress("unix:/run/vlm.sock")->socket_path, "/run/vlm.sock");
}

TEST(AddressTest, RefusesEveryOtherAddressNamingIt) {
  for (const char* text : {"0.0.0.0:7000", "10.1.2.3:7000", "[::]:7000", "example.com:7000", "127.0.0.1",
                           "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0:1", "127.0.0.1.5:1",
                           "127.0.0.256:1", "unix:relative", "unix:", "", "127.0.0.1.example.com:1"}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_NE(std::string(status.message()).find(text), std::string::npos) << status;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(ParseAddress("unix:/" + std::string(107, 'x')).status()));
  EXPECT_TRUE(ParseAddress("unix:/" + std::string(106, 'x')).ok());
}

}  // namespace
}  // namespace vlm::rpc
