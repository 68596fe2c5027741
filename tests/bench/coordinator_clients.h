// The clients of coordinator_bench: who submits jobs, or puts keys into etcd, and workers that hold ranks which do
// nothing.
#ifndef VLM_TESTS_BENCH_COORDINATOR_CLIENTS_H_
#define VLM_TESTS_BENCH_COORDINATOR_CLIENTS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "rpc/channel.h"

namespace vlm::bench {

// One synchronous write at a time over a connection of its own.
class Writer {
 public:
  virtual ~Writer() = default;
  // Blocks until the server says that it is durable. `id` makes it unique. Errors of the call, and of the server.
  virtual absl::Status Write(const std::string& id) = 0;
};

// Submits `job`, a composed file in which every "bench-name" becomes the id and every "424242" its hash.
// `patient`: waits for a connection; else a server that is away is an error at once.
std::unique_ptr<Writer> NewSubmitter(std::shared_ptr<rpc::Channel> channel, const std::string& job, bool patient);
// Puts bytes as long as `job` under the id.
std::unique_ptr<Writer> NewEtcdWriter(std::shared_ptr<rpc::Channel> channel, const std::string& job);

struct Written {
  absl::Duration taken;
  std::vector<absl::Duration> latencies;  // of each write, unordered
};
// `count` writes, shared among the writers, each on a thread of its own. The first error.
absl::StatusOr<Written> WriteAll(const std::vector<std::unique_ptr<Writer>>& writers, const std::string& prefix,
                                 int count);

struct IdleWorkersOptions {
  int workers = 8;
  int slots = 125;  // of each
};
// Sessions of workers whose ranks are ready at once and then report progress for ever.
class IdleWorkers {
 public:
  virtual ~IdleWorkers() = default;
  virtual int welcomed() const = 0;  // of their present sessions
  virtual int ranks() const = 0;     // held, of all
};
// `connect` opens a new channel to the coordinator. Sessions that break begin again within 20 ms.
std::unique_ptr<IdleWorkers> StartIdleWorkers(std::function<std::shared_ptr<rpc::Channel>()> connect,
                                              const IdleWorkersOptions& options);

}  // namespace vlm::bench

#endif  // VLM_TESTS_BENCH_COORDINATOR_CLIENTS_H_
