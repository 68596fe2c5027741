// The values of a document that the schema has checked.
#ifndef VLM_SPEC_CHECKED_JSON_H_
#define VLM_SPEC_CHECKED_JSON_H_

#include <nlohmann/json.hpp>

namespace vlm::spec {

// Members lie in a row in the order of the schema: objects are small, and a tree node per member was most of a check.
// Made by ObjectFor: growing copies members, because their keys are const.
using CheckedJson = nlohmann::ordered_json;

inline CheckedJson ObjectFor(size_t members) {
  CheckedJson object = CheckedJson::object();
  object.get_ref<CheckedJson::object_t&>().reserve(members);
  return object;
}

}  // namespace vlm::spec

#endif  // VLM_SPEC_CHECKED_JSON_H_
