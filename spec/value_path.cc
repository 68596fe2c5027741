#include "spec/value_path.h"

#include "absl/strings/str_cat.h"
#include "spec/scalar.h"

namespace vlm::spec {

std::string ElementName(const YamlNode& element, size_t number) {
  const YamlNode* name = element.Find("name");
  return name != nullptr && name->is_scalar() && IsName(name->scalar) ? name->scalar : absl::StrCat(number);
}

std::string ValuePath::Text() const {
  if (element_ != nullptr) return absl::StrCat(parent_->Text(), "[", ElementName(*element_, number_), "]");
  std::string text = parent_ == nullptr ? "" : parent_->Text();
  if (!text.empty()) text += '.';
  return text.append(key_);
}

}  // namespace vlm::spec
