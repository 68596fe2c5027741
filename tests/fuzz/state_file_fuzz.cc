// Files that programs leave for their own next start: the worker's state folder (identity, results, processes, stored
// calls) and the coordinator's address file. Damaged ones are an error that names the file, or are read.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/simulated_file_system.h"
#include "coordinator/server_files.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/json_editor.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/message_builder.h"
#include "tests/fuzz/temporary_folder.h"
#include "worker/state_dir.h"

namespace vlm::fuzz {
namespace {

using nlohmann::json;

std::string Identity(FuzzInput* input) {
  const json good = {
      {"format", 1}, {"node_id", "node-1"}, {"state_uuid", "ab"}, {"incarnation", 3}, {"coordinator_epoch", 7}};
  return ReadJsonText({good}, input);
}

void OpenWorkerState(FuzzInput* input) {
  const TemporaryFolder folder;
  const std::string state = folder.path() + "/state";
  {  // its own folders, as a first start makes them
    const auto made = worker::StateDir::Open(state, "host");
    VLM_CHECK(made.ok(), made.status().ToString());
  }
  FileSystem* const files = PosixFileSystem();
  const uint8_t choice = input->Byte();
  v1::RankResult result;
  result.set_attempt_id("aa/5");
  if (choice % 2 == 0) ReadMessage({}, input, &result);
  const std::string row = choice % 2 == 0 ? result.SerializeAsString() : std::string(input->Text());
  if (choice & 2) PutFile(files, state + "/results/6161-5-r0", row);
  if (choice & 4) {
    PutFile(files, state + "/processes/77", ReadJsonText({{{"pid", 77}, {"start_ticks", 5}, {"boot_id", "b"}}}, input));
  }
  if (choice & 8) PutFile(files, state + "/calls/part-x", std::string(input->Text()));
  if (choice & 16) {
    VLM_CHECK(files->Remove(state + "/worker.json").ok(), "no identity");
    PutFile(files, state + "/worker.json", Identity(input));
  }
  const auto opened = worker::StateDir::Open(state, "host");
  if (!opened.ok()) {
    VLM_CHECK(opened.status().message().find("worker.json") != absl::string_view::npos, opened.status().ToString());
    return;
  }
  VLM_CHECK(!(*opened)->node_id().empty() && (*opened)->incarnation() > 0, "a worker without identity");
  (*opened)->LoadResults().IgnoreError();
  (*opened)->LoadProcesses().IgnoreError();
  (*opened)->LoadCalls().IgnoreError();
}

void ReadServer(FuzzInput* input) {
  SimulatedFileSystem files;
  const json good = {{"address", "127.0.0.1:1"}, {"metrics_address", "127.0.0.1:2"}, {"pid", 1}, {"version", "1"}};
  PutFile(&files, "/coordinator.json", ReadJsonText({good}, input));
  const auto read = coordinator::ReadServerFile(&files, "/coordinator.json");
  if (!read.ok()) VLM_CHECK(!read.status().message().empty(), "refused without a reason");
}

}  // namespace
}  // namespace vlm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  if (input.Byte() % 4 == 0) {
    vlm::fuzz::OpenWorkerState(&input);
  } else {
    vlm::fuzz::ReadServer(&input);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  return {std::string("\x00\x02\x80\x00", 4),
          std::string("\x00\x14\x00\x00\x00\x02\x00\x00\x00\x02\x05", 11),
          std::string("\x00\x1f\x05hello\x00\x02\x00\x00\x04/m\n.\x00\x02\x01\x00\x00\x05", 22),
          std::string("\x01\x00\x00", 3),
          std::string("\x01\x00\x02\x00\x01\x00\x00\x05", 8),
          "\x01\xff{\"address\": 5}"};
}
