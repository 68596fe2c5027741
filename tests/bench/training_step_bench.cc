// Trains a LLaVA folder on one batch, a number of steps at a time as training_step_bench.py asks, which lets this
// program and its peers take turns.
//
// Usage: training_step_bench FOLDER THREADS CASE=BATCH.safetensors ...
// Reads "CASE STEPS" per line from the standard input, runs them, and prints one line of JSON with the seconds of each,
// the last loss and the phases' seconds of them all.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "model/llava.h"
#include "tests/bench/bench_batch.h"
#include "tests/bench/bench_model.h"
#include "train/process_memory.h"
#include "train/torch_edge.h"
#include "train/training_step.h"

namespace vlm::bench {
namespace {

class Trainer {
 public:
  explicit Trainer(train::TrainingStep* training) : training_(training) {}

  absl::Status Steps(const model::MicroBatch& batch, int64_t count) {
    std::string seconds;
    train::StepResult last;
    train::PhaseTimes sum;
    for (int64_t i = 0; i < count; ++i) {
      const absl::Duration start = RealClock()->Monotonic();
      VLM_RETURN_IF_ERROR(training_->Announce(++step_, {train::Describe(batch)}));
      VLM_ASSIGN_OR_RETURN(last, training_->Step({batch}));
      const double taken = absl::ToDoubleSeconds(RealClock()->Monotonic() - start);
      seconds += (i > 0 ? ", " : "") + std::to_string(taken);
      sum.forward += last.times.forward;
      sum.backward += last.times.backward;
      sum.optimizer += last.times.optimizer;
    }
    std::printf("{\"seconds\": [%s], \"loss\": %.9g, \"forward\": %.6f, \"backward\": %.6f, \"optimizer\": %.6f}\n",
                seconds.c_str(), last.loss, absl::ToDoubleSeconds(sum.forward), absl::ToDoubleSeconds(sum.backward),
                absl::ToDoubleSeconds(sum.optimizer));
    std::fflush(stdout);
    return absl::OkStatus();
  }

 private:
  train::TrainingStep* const training_;
  uint64_t step_ = 0;
};

struct Arguments {
  std::string folder;
  int threads = 1;
  std::map<std::string, std::string> cases;  // name -> file
};

absl::Status Serve(const Arguments& arguments) {
  train::ReuseTensorMemory();  // as vlm-trainer does
  at::set_num_threads(arguments.threads);
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<BenchModel> opened, OpenBenchModel(arguments.folder, /*trainable=*/true));
  std::map<std::string, model::MicroBatch> batches;
  for (const auto& [name, path] : arguments.cases) {
    VLM_ASSIGN_OR_RETURN(batches[name], ReadBatch(path, opened->config));
  }
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<train::TrainingStep> training,
                       train::TrainingStep::Create(BenchTraining(), opened->store.get(), RealClock()));
  Trainer trainer(training.get());
  int64_t steps = 0;
  for (std::string name; std::cin >> name >> steps;) VLM_RETURN_IF_ERROR(trainer.Steps(batches.at(name), steps));
  return absl::OkStatus();
}

}  // namespace
}  // namespace vlm::bench

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: training_step_bench FOLDER THREADS CASE=BATCH.safetensors ...\n");
    return 2;
  }
  vlm::bench::Arguments arguments{argv[1], std::stoi(argv[2]), {}};
  for (int i = 3; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals != std::string::npos) arguments.cases[word.substr(0, equals)] = word.substr(equals + 1);
  }
  const absl::Status status =
      vlm::train::CatchTorch("training_step_bench", [&] { return vlm::bench::Serve(arguments); });
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
