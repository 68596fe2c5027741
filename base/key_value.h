// A change to an ordered key-value store, as data: what a pure core decides and a MetaStore commits.
#ifndef VLM_BASE_KEY_VALUE_H_
#define VLM_BASE_KEY_VALUE_H_

#include <optional>
#include <string>

namespace vlm {

struct Mutation {
  std::string family;                // column family
  std::string key;                   // bytes; integers big-endian, so that scans follow their order
  std::optional<std::string> value;  // nothing: delete
};

}  // namespace vlm

#endif  // VLM_BASE_KEY_VALUE_H_
