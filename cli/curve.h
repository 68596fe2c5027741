// `vlmctl curve`: what a stage measured, step by step.
#ifndef VLM_CLI_CURVE_H_
#define VLM_CLI_CURVE_H_

#include <string>

#include "cli/context.h"

namespace vlm::cli {

struct CurveArguments {
  std::string job;
  std::string series;  // "loss"
  std::string stage;   // empty: as for logs
  int points = 0;      // at most so many, thinned by equal strides; 0: the coordinator's default of 1,000
};

// NOT_FOUND for an unknown stage, naming the job's stages, and for a series without points.
VerbResult Curve(const Context& context, const CurveArguments& arguments);

}  // namespace vlm::cli

#endif  // VLM_CLI_CURVE_H_
