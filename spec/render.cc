#include "spec/render.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace vlm::spec {
namespace {

bool IsPlainSafe(const std::string& text) {
  const auto letter = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (text.empty() || text == "null" || text == "Null" || text == "NULL" ||
      !(letter(text.front()) || text.front() == '-' || text.front() == '.' || text.front() == '/')) {
    return false;
  }
  if (text == "-" || text.starts_with("- ") || text.starts_with("---") || text.starts_with("...") ||
      text.back() == ' ') {
    return false;
  }
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return letter(c) || c == '-' || c == '_' || c == '.' || c == '/' || c == ' ' || c == '*' || c == '+';
  });
}

std::string Scalar(const YamlNode& node) {
  if (node.is_null()) return "null";
  if (!node.quoted && IsPlainSafe(node.scalar)) return node.scalar;
  // JSON's strings are YAML's double-quoted scalars; DEL and C1 controls never pass the reader.
  return nlohmann::json(node.scalar).dump();
}

std::string Origin(const Place& at) {
  if (!at.known()) return "  # default";
  std::string source = *at.source;
  std::replace_if(source.begin(), source.end(), [](unsigned char c) { return c < 0x20; }, '?');
  return at.line == 0 ? absl::StrCat("  # from ", source) : absl::StrCat("  # from ", source, ":", at.line);
}

bool IsFlat(const YamlNode& node) {
  return node.is_list() && std::none_of(node.items.begin(), node.items.end(),
                                        [](const YamlNode& item) { return item.is_map() || item.is_list(); });
}

// A value that fits behind "key: ".
bool IsInline(const YamlNode& node) {
  return node.is_scalar() || node.is_null() || IsFlat(node) || (node.is_map() && node.entries.empty());
}

std::string Inline(const YamlNode& node) {
  if (node.is_map()) return "{}";
  if (!node.is_list()) return Scalar(node);
  std::string text = "[";
  for (size_t i = 0; i < node.items.size(); ++i) absl::StrAppend(&text, i == 0 ? "" : ", ", Scalar(node.items[i]));
  return text + "]";
}

// `first` is what stands before the first line: the dash of a list entry.
void Block(const YamlNode& node, int indent, std::string first, std::string* out) {
  const std::string margin(indent, ' ');
  const auto line_start = [&] {
    std::string start = first.empty() ? margin : first;
    first.clear();
    return start;
  };
  if (node.is_list()) {
    for (const YamlNode& item : node.items) {
      if (IsInline(item)) {
        absl::StrAppend(out, line_start(), "- ", Inline(item), Origin(item.at), "\n");
      } else {
        Block(item, indent + 2, absl::StrCat(line_start(), "- "), out);
      }
    }
    return;
  }
  for (const YamlEntry& entry : node.entries) {
    const std::string key = IsPlainSafe(entry.key) ? entry.key : nlohmann::json(entry.key).dump();
    if (IsInline(entry.value)) {
      const Place& at = entry.value.is_list() && !entry.value.items.empty() ? entry.value.items[0].at : entry.value.at;
      absl::StrAppend(out, line_start(), key, ": ", Inline(entry.value), Origin(at), "\n");
    } else {
      absl::StrAppend(out, line_start(), key, ":\n");
      Block(entry.value, indent + 2, "", out);
    }
  }
}

}  // namespace

std::string RenderYaml(const YamlNode& root) {
  std::string out;
  Block(root, 0, "", &out);
  return out;
}

}  // namespace vlm::spec
