// A stage's typed values to JSON of the job file's shape, and back.
#ifndef VLM_SPEC_STAGE_JSON_H_
#define VLM_SPEC_STAGE_JSON_H_

#include <nlohmann/json.hpp>

#include "spec/stage.h"

namespace vlm::spec {

nlohmann::json ToJson(const Stage& stage);

// Requires JSON that CheckJob or CheckStage made without a report.
Stage FromCheckedJson(const nlohmann::json& json);

}  // namespace vlm::spec

#endif  // VLM_SPEC_STAGE_JSON_H_
