// What one rank of a training saw, as bytes in files: for comparing processes.
#ifndef VLM_TESTS_INTEGRATION_EQUALITY_OUTCOME_H_
#define VLM_TESTS_INTEGRATION_EQUALITY_OUTCOME_H_

#include <map>
#include <string>
#include <vector>

#include "train/parameter_store.h"

namespace vlm::train {

struct StepFigures {
  double loss = 0, norm = 0;
};

struct Outcome {
  std::vector<StepFigures> steps;
  std::map<std::string, std::string> weights;  // bytes by name
};

// A new, empty one.
std::string NewFolder(const std::string& name);

// As a rank of the group that trained; collective, for it asks the store for whole weights. Both die on errors.
void WriteOutcome(const std::string& folder, int rank, const std::vector<StepFigures>& steps, ParameterStore* store);
Outcome ReadOutcome(const std::string& folder, int rank);

// Expects equal losses and norms, by ==, and equal bytes of all weights.
void ExpectSame(const Outcome& expected, const Outcome& actual);

}  // namespace vlm::train

#endif  // VLM_TESTS_INTEGRATION_EQUALITY_OUTCOME_H_
