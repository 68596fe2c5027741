// Saves and loads a training state on several ranks, as processes, when checkpoint_bench.py asks.
//
// Usage: checkpoint_bench WORLD FOLDER MODEL BATCH.safetensors (FOLDER: for the ranks' sockets)
// Reads one request per line and answers with one line of JSON whose "seconds" has one entry:
//   model        builds the model at zero 2 and takes one step, so that moments are not zero
//   pause        what training waits for in a save: the copy of this rank's part of the state
//   save DIR     all files of the state, hashed and synced, as the trainer's saves are; DIR exists
//   load DIR     the whole state into the ranks' shards, saved by any number of ranks: each rank has its part of the
//                weights then, and gathers the others' parts when it first uses them
//   gather       that first use: every bucket once, whole on every rank
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <string>

#include "base/clock.h"
#include "tests/bench/bench_batch.h"
#include "tests/bench/bench_model.h"
#include "tests/integration/equality/rank_processes.h"
#include "tests/unit/train/must.h"
#include "tests/unit/train/state_folder.h"
#include "train/checkpoint_state.h"
#include "train/process_memory.h"
#include "train/training_step.h"

namespace vlm::bench {
namespace {

using train::Must;

constexpr int64_t kFileBytesMax = int64_t{64} << 20;

class Rank {
 public:
  Rank(std::string model, std::string batch, train::Collective* collective)
      : model_(std::move(model)), batch_(std::move(batch)), collective_(collective) {}

  // Until rank 0's input ends.
  void Serve() {
    while (true) {
      std::string line;
      if (collective_->rank() == 0) std::getline(std::cin, line);
      const std::string request = Must(collective_->AllGatherBytes(line, "request"))[0];
      if (request.empty()) return;
      const absl::Duration start = RealClock()->Monotonic();
      Do(request);
      Must(collective_->Barrier("done"));
      const double seconds = absl::ToDoubleSeconds(RealClock()->Monotonic() - start);
      if (collective_->rank() != 0) continue;
      std::printf("{\"seconds\": [%.6f]}\n", seconds);
      std::fflush(stdout);
    }
  }

 private:
  void Do(const std::string& request) {
    const std::string folder = request.size() > 5 ? request.substr(5) : "";
    if (request == "model") {
      Build();
    } else if (request == "pause") {
      train::StateOptions options;
      options.file_bytes_max = kFileBytesMax;
      Must(train::SaveState(train::PlanState(*opened_->store, options), opened_->store.get()));
    } else if (request.starts_with("save ")) {
      train::WriteStateFolder(folder, kFileBytesMax, opened_->store.get());
    } else if (request == "gather") {
      GatherWeights();
    } else {
      Must(train::LoadStateFolder(folder, opened_->store.get()));
    }
  }

  void GatherWeights() {
    train::ParameterStore* const store = opened_->store.get();
    for (train::BucketId id = 0; id < static_cast<train::BucketId>(store->buckets().size()); ++id) {
      Must(store->queue()->Wait(store->Acquire(id)));
      store->Release(id);
    }
  }

  void Build() {
    opened_ = Must(OpenBenchModel(model_, BenchStore{.collective = collective_}));
    model::MicroBatch batch = Must(ReadBatch(batch_, opened_->config));
    batch.global_index = collective_->rank();
    const auto training = Must(train::TrainingStep::Create(BenchTraining(), opened_->store.get(), RealClock()));
    Must(training->Announce(1, {train::Describe(batch)}));
    Must(training->Step({batch}));
  }

  const std::string model_, batch_;
  train::Collective* const collective_;
  std::unique_ptr<BenchModel> opened_;
};

}  // namespace
}  // namespace vlm::bench

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: checkpoint_bench WORLD FOLDER MODEL BATCH.safetensors\n");
    return 2;
  }
  vlm::train::RunRankProcesses(vlm::train::Transport::kSharedMemory, std::stoi(argv[1]), argv[2],
                               [&](vlm::train::Collective* collective) {
                                 vlm::train::ReuseTensorMemory();  // as the trainer does
                                 at::set_num_threads(1);
                                 vlm::bench::Rank(argv[3], argv[4], collective).Serve();
                               });
  return 0;
}
