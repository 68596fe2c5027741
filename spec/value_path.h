// Where a value stands in a document, as a chain up to the root: text is made only for what is reported.
#ifndef VLM_SPEC_VALUE_PATH_H_
#define VLM_SPEC_VALUE_PATH_H_

#include <string>
#include <string_view>

#include "spec/yaml_node.h"

namespace vlm::spec {

// "name" of an entry of a list, or its number from 0: what stands in brackets in a path.
std::string ElementName(const YamlNode& element, size_t number);

// Lives on the stack of whoever walks the document; refers to its parent, key and element.
class ValuePath {
 public:
  ValuePath() = default;                                     // the document
  explicit ValuePath(std::string_view root) : key_(root) {}  // begins the text: "spec.stages[sft]"
  ValuePath(const ValuePath& parent, std::string_view key) : parent_(&parent), key_(key) {}
  ValuePath(const ValuePath& parent, const YamlNode& element, size_t number)
      : parent_(&parent), element_(&element), number_(number) {}

  // "spec.stages[sft].train.lr"
  std::string Text() const;

 private:
  const ValuePath* parent_ = nullptr;
  std::string_view key_;
  const YamlNode* element_ = nullptr;
  size_t number_ = 0;
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_VALUE_PATH_H_
