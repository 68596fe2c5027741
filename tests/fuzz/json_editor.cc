#include "tests/fuzz/json_editor.h"

#include <cstdint>
#include <limits>
#include <vector>

namespace vlm::fuzz {
namespace {

using nlohmann::json;

constexpr int kEditsMax = 16;
constexpr uint8_t kRaw = 255;

json AnyValue(FuzzInput* input) {
  switch (input->Below(10)) {
    case 0:
      return nullptr;
    case 1:
      return input->Byte() % 2 == 0;
    case 2:
      return input->Number();
    case 3:
      return -static_cast<int64_t>(input->Number() % INT64_MAX);
    case 4:
      return std::numeric_limits<double>::max() / static_cast<double>(1 + input->Byte());
    case 5:
      return json::array();
    case 6:
      return json::object();
    case 7:
      return json::array({input->Number(), input->Number()});
    case 8:
      return json::object({{std::string(input->Text()), input->Number()}});
    default:
      return std::string(input->Text());
  }
}

// Goes down as long as bytes say so. The container that holds the chosen entry, or null for the root; `*at` is its
// number.
json* Walk(json* root, FuzzInput* input, size_t* at) {
  json* container = nullptr;
  json* here = root;
  while (here->is_structured() && !here->empty()) {
    const size_t number = (input->Byte() | static_cast<size_t>(input->Byte()) << 8) % here->size();
    container = here;
    *at = number;
    here = &*std::next(here->begin(), static_cast<std::ptrdiff_t>(number));
    if (input->Byte() % 4 == 0) break;
  }
  return container;
}

void EditOnce(json* root, FuzzInput* input) {
  const uint8_t kind = input->Byte();
  size_t at = 0;
  json* const container = Walk(root, input, &at);
  if (container == nullptr) {
    if (kind % 16 == 0) *root = AnyValue(input);
    return;
  }
  const auto place = std::next(container->begin(), static_cast<std::ptrdiff_t>(at));
  switch (kind % 5) {
    case 0:
    case 1:
      *place = AnyValue(input);
      break;
    case 2:
      container->erase(place);
      break;
    case 3: {
      const json copy = *place;
      if (container->is_array()) {
        container->insert(container->begin() + static_cast<std::ptrdiff_t>(input->Byte() % (container->size() + 1)),
                          copy);
      } else {
        (*container)[std::string(input->Text())] = copy;
      }
      break;
    }
    default:
      if (container->is_object()) {
        const json moved = *place;
        container->erase(place);
        (*container)[std::string(input->Text())] = moved;
      } else {
        std::swap(*place,
                  *std::next(container->begin(), static_cast<std::ptrdiff_t>(input->Byte() % container->size())));
      }
  }
}

}  // namespace

std::string EditJson(json base, FuzzInput* input) {
  bool repeat_key = false;
  for (int edits = 0; edits < kEditsMax; ++edits) {
    const uint8_t more = input->Byte();
    if (more == 0) break;
    if (more == 1) {
      repeat_key = true;
      continue;
    }
    EditOnce(&base, input);
  }
  // What is no UTF-8 is left out here: raw inputs have it.
  std::string text = base.dump(-1, ' ', false, json::error_handler_t::ignore);
  if (repeat_key && base.is_object() && !base.empty()) {
    text.insert(1, json(base.begin().key()).dump(-1, ' ', false, json::error_handler_t::ignore) + ":1,");
  }
  return text;
}

std::string ReadJsonText(const std::vector<json>& bases, FuzzInput* input) {
  const uint8_t choice = input->Byte();
  if (choice == kRaw) return std::string(input->Rest());
  return EditJson(bases[choice % bases.size()], input);
}

}  // namespace vlm::fuzz
