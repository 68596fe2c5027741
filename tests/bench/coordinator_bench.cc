// Clients of a coordinator, or of etcd, that do what coordinator_bench.py asks.
//
// Usage: coordinator_bench submit FOLDER JOB CLIENTS   (FOLDER: the coordinator's state folder)
//        coordinator_bench put ADDRESS JOB CLIENTS     (etcd)
//        coordinator_bench work FOLDER WORKERS SLOTS
// Reads one request per line from the standard input and answers with one line of JSON. Of writers:
//   PREFIX COUNT    that many unique writes: {"seconds": [all of them], "p50_ms", "p99_ms"}
//   first PREFIX    tries one write over and over on new connections until it is accepted: {"at": monotonic seconds}
// Of workers:
//   welcomed|ranks COUNT    waits for so many: {"at": monotonic seconds}
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "rpc/grpc_channel.h"
#include "rpc/token.h"
#include "tests/bench/coordinator_clients.h"

namespace vlm::bench {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;
constexpr absl::Duration kPause = absl::Milliseconds(2);  // between two tries
constexpr absl::Duration kPatience = absl::Minutes(2);

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

void Answer(const nlohmann::json& answer) {
  std::printf("%s\n", answer.dump().c_str());
  std::fflush(stdout);
}

// A new connection to the coordinator of a state folder.
absl::StatusOr<std::shared_ptr<rpc::Channel>> Connect(const std::string& folder, const std::string& role) {
  VLM_ASSIGN_OR_RETURN(const std::string text,
                       ReadFile(PosixFileSystem(), folder + "/coordinator.json", kFileBytesMax));
  const nlohmann::json where = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!where.is_object()) return absl::UnavailableError("coordinator.json is being written");
  VLM_ASSIGN_OR_RETURN(const std::string token, rpc::ReadTokenFile(absl::StrCat(folder, "/", role, ".token")));
  VLM_ASSIGN_OR_RETURN(auto channel, rpc::NewGrpcChannel({.address = where.value("address", ""),
                                                          .metadata = rpc::BearerMetadata(token)}));
  return std::shared_ptr<rpc::Channel>(std::move(channel));
}

struct Target {
  bool etcd = false;
  std::string place;  // folder or address
  std::string job;

  absl::StatusOr<std::unique_ptr<Writer>> NewWriter(bool patient) const {
    if (!etcd) {
      VLM_ASSIGN_OR_RETURN(auto channel, Connect(place, "user"));
      return NewSubmitter(std::move(channel), job, patient);
    }
    VLM_ASSIGN_OR_RETURN(auto channel, rpc::NewGrpcChannel({.address = place}));
    return NewEtcdWriter(std::move(channel), job);
  }
};

absl::Status WriteFirst(const Target& target, const std::string& id) {
  const absl::Duration end = RealClock()->Monotonic() + kPatience;
  while (true) {
    absl::StatusOr<std::unique_ptr<Writer>> writer = target.NewWriter(/*patient=*/false);
    const absl::Status status = writer.ok() ? (*writer)->Write(id) : writer.status();
    const absl::Duration now = RealClock()->Monotonic();
    if (status.ok()) {
      Answer({{"at", Seconds(now)}});
      return absl::OkStatus();
    }
    if (now > end) return status;
    std::this_thread::sleep_for(absl::ToChronoMilliseconds(kPause));
  }
}

absl::Status ServeWrites(const Target& target, int clients) {
  std::vector<std::unique_ptr<Writer>> writers;
  std::string prefix;
  for (std::string argument; std::cin >> prefix >> argument;) {
    if (prefix == "first") {
      VLM_RETURN_IF_ERROR(WriteFirst(target, argument));
      continue;
    }
    while (writers.size() < static_cast<size_t>(clients)) {
      VLM_ASSIGN_OR_RETURN(std::unique_ptr<Writer> writer, target.NewWriter(/*patient=*/true));
      writers.push_back(std::move(writer));
    }
    VLM_ASSIGN_OR_RETURN(Written written, WriteAll(writers, prefix, std::stoi(argument)));
    std::sort(written.latencies.begin(), written.latencies.end());
    const auto share = [&](size_t percent) {
      return 1e3 * Seconds(written.latencies[(written.latencies.size() - 1) * percent / 100]);
    };
    Answer({{"seconds", {Seconds(written.taken)}}, {"p50_ms", share(50)}, {"p99_ms", share(99)}});
  }
  return absl::OkStatus();
}

absl::Status ServeWorkers(const std::string& folder, const IdleWorkersOptions& options) {
  const auto connect = [folder] {
    while (true) {  // the file is there: a coordinator ran before
      auto channel = Connect(folder, "worker");
      if (channel.ok()) return *std::move(channel);
      std::this_thread::sleep_for(absl::ToChronoMilliseconds(kPause));
    }
  };
  const std::unique_ptr<IdleWorkers> workers = StartIdleWorkers(connect, options);
  std::string what;
  for (int count = 0; std::cin >> what >> count;) {
    const absl::Duration end = RealClock()->Monotonic() + kPatience;
    while ((what == "ranks" ? workers->ranks() : workers->welcomed()) < count) {
      if (RealClock()->Monotonic() > end) return absl::DeadlineExceededError("not so many within two minutes: " + what);
      std::this_thread::sleep_for(absl::ToChronoMilliseconds(kPause));
    }
    Answer({{"at", Seconds(RealClock()->Monotonic())}});
  }
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& words) {
  if (words[0] == "work") return ServeWorkers(words[1], {.workers = std::stoi(words[2]), .slots = std::stoi(words[3])});
  VLM_ASSIGN_OR_RETURN(std::string job, ReadFile(PosixFileSystem(), words[2], kFileBytesMax));
  return ServeWrites({.etcd = words[0] == "put", .place = words[1], .job = std::move(job)}, std::stoi(words[3]));
}

}  // namespace
}  // namespace vlm::bench

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: coordinator_bench submit|put|work PLACE JOB|WORKERS CLIENTS|SLOTS\n");
    return 2;
  }
  const absl::Status status = vlm::bench::Run({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "coordinator_bench: %s\n", status.ToString().c_str());
  return 1;
}
