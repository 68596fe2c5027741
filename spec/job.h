// A composed and checked job as typed values.
#ifndef VLM_SPEC_JOB_H_
#define VLM_SPEC_JOB_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "spec/stage.h"

namespace vlm::spec {

// The numbers are those of vlm.v1.FailureClass.
enum class FailureClass {
  kOutOfMemory = 1,
  kNumeric = 2,
  kBadData = 3,
  kDamagedCheckpoint = 4,
  kIncompatible = 5,
  kUserError = 6,
  kStorage = 7,
  kCrash = 8,
  kWorkerLost = 9,
  kHang = 10,
  kStartTimeout = 11,
  kPeerLost = 12,
};
// The word of the job file: "out_of_memory", ...
std::string_view FailureClassName(FailureClass failure);

struct RetryRule {
  std::optional<int32_t> limit;  // restarts without committed progress in between; absent: unlimited
  absl::Duration backoff_base;   // wait before the first retry; zero: none
  double backoff_factor = 1;
  absl::Duration backoff_max;
};

struct Job {
  std::string name;
  std::map<std::string, std::string> labels;
  uint64_t seed = 0;
  Ranks ranks;
  std::optional<int32_t> gpu;               // devices per rank: 0 or 1; absent: 1 where workers have GPUs, else 0
  std::string artifacts;                    // absolute folder; empty: a folder of the service
  std::map<FailureClass, RetryRule> retry;  // every class
  int32_t no_progress_restarts_max = 0;     // attempts in a row without a commit, whatever the class
  std::vector<Stage> stages;                // as written; inserted index stages before their first user
};

// Nothing when there is no such stage.
const Stage* FindStage(const Job& job, std::string_view name);

// Every stage that `name` builds on, directly or not, parents before children; without `name` itself.
std::vector<std::string> Ancestors(const Job& job, std::string_view name);

}  // namespace vlm::spec

#endif  // VLM_SPEC_JOB_H_
