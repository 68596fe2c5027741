// Ranks of one model as processes, a number of steps at a time as zero_bench.py asks, which lets this program and its
// peers take turns.
//
// Usage: zero_bench WORLD FOLDER ZERO[+overlap] MODEL BATCH.safetensors (FOLDER: for the ranks' sockets)
// Each rank takes an equal part of the batch's rows as its one micro-batch. Reads one request per line: "model" builds
// the model, a number runs that many steps (0 before the model); answers with one line of JSON with the seconds of each
// and the last loss.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/bench/bench_batch.h"
#include "tests/bench/bench_model.h"
#include "tests/integration/equality/rank_processes.h"
#include "tests/unit/train/must.h"
#include "train/process_memory.h"
#include "train/training_step.h"

namespace vlm::bench {
namespace {

using train::Must;

struct Arguments {
  int zero = 2;
  bool overlap = false;
  std::string model, batch;
};

class Rank {
 public:
  Rank(const Arguments& arguments, train::Collective* collective) : arguments_(arguments), collective_(collective) {}

  // Until rank 0's input ends.
  void Serve() {
    while (true) {
      std::string line;
      if (collective_->rank() == 0) std::getline(std::cin, line);
      const std::string request = Must(collective_->AllGatherBytes(line, "request"))[0];
      if (request.empty()) return;
      const std::string answer = request == "model" ? Build() : Steps(std::stoi(request));
      if (collective_->rank() != 0) continue;
      std::printf("%s\n", answer.c_str());
      std::fflush(stdout);
    }
  }

 private:
  std::string Build() {
    const BenchStore store{.collective = collective_,
                           .zero = static_cast<train::ZeroLevel>(arguments_.zero),
                           .overlap = arguments_.overlap};
    opened_ = Must(OpenBenchModel(arguments_.model, store));
    const int64_t rows = Must(ReadTensors(arguments_.batch)).at("ids").size(0) / collective_->world();
    const int64_t begin = rows * collective_->rank();
    batch_ = Must(ReadBatch(arguments_.batch, opened_->config, {begin, begin + rows}));
    batch_.global_index = collective_->rank();
    training_ = Must(train::TrainingStep::Create(BenchTraining(), opened_->store.get(), RealClock()));
    return "{\"seconds\": []}";
  }

  std::string Steps(int count) {
    std::string seconds;
    double loss = 0;
    for (int i = 0; i < count; ++i) {
      const absl::Duration start = RealClock()->Monotonic();
      Must(training_->Announce(++step_, {train::Describe(batch_)}));
      loss = Must(training_->Step({batch_})).loss;
      absl::StrAppend(&seconds, i > 0 ? ", " : "", absl::ToDoubleSeconds(RealClock()->Monotonic() - start));
    }
    return absl::StrCat("{\"seconds\": [", seconds, "], \"loss\": ", loss, "}");
  }

  const Arguments arguments_;
  train::Collective* const collective_;
  std::unique_ptr<BenchModel> opened_;
  std::unique_ptr<train::TrainingStep> training_;
  model::MicroBatch batch_;
  uint64_t step_ = 0;
};

}  // namespace
}  // namespace vlm::bench

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: zero_bench WORLD FOLDER ZERO[+overlap] MODEL BATCH.safetensors\n");
    return 2;
  }
  const vlm::bench::Arguments arguments{std::stoi(argv[3]), std::string_view(argv[3]).ends_with("+overlap"), argv[4],
                                        argv[5]};
  vlm::train::RunRankProcesses(vlm::train::Transport::kSharedMemory, std::stoi(argv[1]), argv[2],
                               [&](vlm::train::Collective* collective) {
                                 vlm::train::ReuseTensorMemory();  // as vlm-trainer does
                                 at::set_num_threads(1);
                                 vlm::bench::Rank(arguments, collective).Serve();
                               });
  return 0;
}
