#include "telemetry/exposer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/telemetry/http_get.h"

namespace vlm::telemetry {
namespace {

using testing::HasSubstr;

TEST(ExposerTest, AScrapeShowsTheRegistry) {
  MetricRegistry registry;
  registry.Add("vlm_heartbeats_total", {}, 3);
  auto exposer = Exposer::Create("127.0.0.1:0", registry);
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  const std::string first = HttpGet((*exposer)->address(), "/metrics");
  EXPECT_THAT(first, HasSubstr("200 OK"));
  EXPECT_THAT(first, HasSubstr("vlm_heartbeats_total 3\n"));
  registry.Add("vlm_heartbeats_total", {}, 1);
  EXPECT_THAT(HttpGet((*exposer)->address(), "/metrics"), HasSubstr("vlm_heartbeats_total 4\n"));
}

TEST(ExposerTest, RefusesAddressesThatAreNotThisMachines) {
  MetricRegistry registry;
  for (const char* address :
       {"0.0.0.0:0", "192.168.1.1:0", ":0", "[::]:0", "127.0.0.1", "127.0.0.1:70000", "127.x:0", "example.org:80"}) {
    const absl::Status status = Exposer::Create(address, registry).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << address << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  }
}

TEST(ExposerTest, APortInUseIsRefusedNamingTheAddress) {
  MetricRegistry registry;
  auto first = Exposer::Create("127.0.0.1:0", registry);
  ASSERT_TRUE(first.ok());
  const absl::Status second = Exposer::Create((*first)->address(), registry).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr((*first)->address()));
}

}  // namespace
}  // namespace vlm::telemetry
