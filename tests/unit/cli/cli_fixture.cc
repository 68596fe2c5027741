#include "tests/unit/cli/cli_fixture.h"

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/token.h"

namespace vlm::cli {

CliFixture::CliFixture() {
  const testing::TestInfo* const info = testing::UnitTest::GetInstance()->current_test_info();
  folder_ = absl::StrCat(testing::TempDir(), "/cli_", info->test_suite_name(), "_", info->name());
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directories(folder_ + "/state");
  WriteFile("state/coordinator.json", R"({"address": "127.0.0.1:7001", "metrics_address": "127.0.0.1:7002"})");
  EXPECT_TRUE(rpc::CreateTokenFile(folder_ + "/state/user.token").ok());
  transport_.Serve(coordinator_.Registry());
  world_.files = PosixFileSystem();
  world_.clock = RealClock();
  world_.interrupt = &interrupt_;
  world_.program_folder = folder_;
  world_.connect = [this](const Endpoint& endpoint) -> absl::StatusOr<std::unique_ptr<rpc::Channel>> {
    return transport_.Connect("vlmctl", rpc::BearerMetadata(endpoint.token));
  };
  world_.run_program = [this](const std::string& path,
                              const std::vector<std::string>& arguments) -> absl::StatusOr<int> {
    std::vector<std::string> command = {path};
    command.insert(command.end(), arguments.begin(), arguments.end());
    programs_.push_back(command);
    return program_exit_code_;
  };
  world_.new_request_id = [this] { return absl::StrCat("request-", ++request_ids_); };
}

int CliFixture::Run(std::vector<std::string> arguments) {
  out_.Clear();
  err_.Clear();
  TerminalOptions screen;
  screen.out = [this](std::string_view text) { out_.Add(text); };
  screen.error = [this](std::string_view text) { err_.Add(text); };
  screen.interactive = interactive_;
  Terminal terminal(screen);
  world_.terminal = &terminal;
  if (with_state_dir_) arguments.insert(arguments.begin(), {"--state-dir", folder_ + "/state"});
  return cli::Run(world_, arguments);
}

std::unique_ptr<Service> CliFixture::NewService() {
  EndpointOptions options;
  options.state_dir = folder_ + "/state";
  return std::make_unique<Service>([this, options] { return ResolveEndpoint(world_.files, options); }, world_.connect,
                                   world_.clock, &interrupt_, nullptr);
}

std::string CliFixture::WriteFile(const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(folder_, "/", name);
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace vlm::cli
