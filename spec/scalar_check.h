// One scalar against one row of the schema.
#ifndef VLM_SPEC_SCALAR_CHECK_H_
#define VLM_SPEC_SCALAR_CHECK_H_

#include <string>

#include "spec/checked_json.h"
#include "spec/schema.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

struct ScalarResult {
  CheckedJson value;    // integer, number, boolean or string; a duration in seconds; "unlimited"
  std::string message;  // empty: it fits
  std::string suggestion;
};

// Requires node.is_scalar().
ScalarResult CheckScalar(const YamlNode& node, const Field& row);

}  // namespace vlm::spec

#endif  // VLM_SPEC_SCALAR_CHECK_H_
