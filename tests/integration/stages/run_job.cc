// Runs a whole job file in one process and prints the scores: for trying out settings of a job.
//   run_job JOB.yaml FOLDER WORLD [path=value ...]
#include <cstdio>
#include <cstdlib>

#include "base/clock.h"
#include "tests/integration/stages/local_job.h"

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: run_job JOB.yaml FOLDER WORLD [path=value ...]\n");
    return 64;
  }
  absl::StatusOr<std::unique_ptr<vlm::trainer::LocalJob>> job =
      vlm::trainer::LocalJob::Create(argv[2], argv[1], std::vector<std::string>(argv + 4, argv + argc));
  if (!job.ok()) {
    std::fprintf(stderr, "%s\n", std::string(job.status().message()).c_str());
    return 1;
  }
  for (const vlm::spec::Stage& stage : (*job)->job().stages) {
    const absl::Duration start = vlm::RealClock()->Monotonic();
    const absl::Status status = (*job)->RunStage(stage.name, {.world = std::atoi(argv[3])});
    std::printf("%-16s %8.1f s  %s\n", stage.name.c_str(), absl::ToDoubleSeconds(vlm::RealClock()->Monotonic() - start),
                status.ToString().c_str());
    std::fflush(stdout);
    if (!status.ok()) return 1;
  }
  return 0;
}
