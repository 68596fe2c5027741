// A stage's typed values to JSON of the job file's shape, and back.
#ifndef VLM_SPEC_STAGE_JSON_H_
#define VLM_SPEC_STAGE_JSON_H_

#include <string>

#include "spec/checked_json.h"
#include "spec/stage.h"

namespace vlm::spec {

struct StageTexts {
  std::string all;       // canonical JSON (spec/canonical.h)
  std::string semantic;  // the same without the keys that do not change results
};
StageTexts WriteStage(const Stage& stage);

// Requires JSON that CheckJob or CheckStage made without a report.
Stage FromCheckedJson(const CheckedJson& json);

}  // namespace vlm::spec

#endif  // VLM_SPEC_STAGE_JSON_H_
