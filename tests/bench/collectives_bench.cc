// Collectives between processes of one machine, a number of rounds at a time as collectives_bench.py asks, which lets
// this program and its peer take turns.
//
// Usage: collectives_bench shared_memory|tcp WORLD FOLDER (for the ranks' sockets)
// Reads "all_reduce|reduce_scatter|all_gather BYTES ROUNDS" per line from the standard input (bytes of the whole fp32
// buffer) and prints one line of JSON with the seconds of each round on rank 0. Buffers are those of training: slots
// and parameters from Allocate, the accumulator in plain memory. Every rank checks every result once per request.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "tests/integration/equality/rank_processes.h"
#include "tests/unit/train/must.h"

namespace vlm::train {
namespace {

constexpr int64_t kElementsMax = (int64_t{64} << 20) / 4;

class Rank {
 public:
  explicit Rank(Collective* collective)
      : collective_(collective),
        slot_(Must(collective->Allocate(kElementsMax, at::kFloat, "slot"))),
        parameters_(Must(collective->Allocate(kElementsMax, at::kFloat, "parameters"))),
        accumulator_(at::zeros({kElementsMax / collective->world()}, at::kFloat)) {}

  // Until rank 0's input ends.
  void Serve() {
    while (true) {
      std::string line;
      if (collective_->rank() == 0) std::getline(std::cin, line);
      const std::string request = Must(collective_->AllGatherBytes(line, "request"))[0];
      if (request.empty()) return;
      std::istringstream words(request);
      std::string operation;
      int64_t bytes = 0, rounds = 0;
      words >> operation >> bytes >> rounds;
      Measure(operation, bytes / 4, rounds);
    }
  }

 private:
  void Measure(const std::string& operation, int64_t elements, int64_t rounds) {
    const int64_t shard = elements / collective_->world();
    const at::Tensor slot = slot_.narrow(0, 0, elements), whole = parameters_.narrow(0, 0, elements);
    const at::Tensor sum = accumulator_.narrow(0, 0, shard);
    const bool reduces = operation != "all_gather", gathers = operation != "reduce_scatter";
    slot.fill_(collective_->rank() + 1);
    sum.fill_(collective_->rank() + 1);
    std::string seconds;
    for (int64_t round = -1; round < rounds; ++round) {  // the first one touches the pages and is not counted
      Must(collective_->Barrier("round"));
      const absl::Duration start = RealClock()->Monotonic();
      if (reduces) {
        sum.zero_();
        Must(collective_->ReduceScatterAdd(slot, true, sum, "slot"));
      }
      if (gathers) Must(collective_->AllGather(sum, whole, "parameters"));
      const double taken = absl::ToDoubleSeconds(RealClock()->Monotonic() - start);
      if (round >= 0) absl::StrAppend(&seconds, round > 0 ? ", " : "", taken);
    }
    Check(reduces, gathers ? whole : sum);
    if (collective_->rank() != 0) return;
    std::printf("{\"seconds\": [%s]}\n", seconds.c_str());
    std::fflush(stdout);
  }

  void Check(bool reduces, const at::Tensor& result) const {
    const int world = collective_->world();
    if (reduces) {
      VLM_CHECK(result.eq(world * (world + 1) / 2).all().item<bool>(), "the sum is not that of all ranks");
      return;
    }
    const at::Tensor expected = at::arange(1, world + 1, at::kFloat).repeat_interleave(result.numel() / world);
    VLM_CHECK(at::equal(result, expected), "a gathered shard is not its owner's");
  }

  Collective* const collective_;
  const at::Tensor slot_, parameters_, accumulator_;
};

}  // namespace
}  // namespace vlm::train

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: collectives_bench shared_memory|tcp WORLD FOLDER\n");
    return 2;
  }
  using vlm::train::Transport;
  const Transport transport = std::string(argv[1]) == "tcp" ? Transport::kTcp : Transport::kSharedMemory;
  vlm::train::RunRankProcesses(transport, std::stoi(argv[2]), argv[3], [](vlm::train::Collective* collective) {
    at::set_num_threads(1);
    vlm::train::Rank(collective).Serve();
  });
  return 0;
}
