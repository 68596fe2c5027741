#include "spec/scalar_check.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "spec/scalar.h"

namespace vlm::spec {
namespace {

constexpr size_t kPathBytesMax = 4096;

ScalarResult Expected(const YamlNode& node, const Field& row, std::string suggestion = "") {
  return {nullptr, absl::StrCat("expected ", std::string(TypeName(row.type)), ", got ", node.Describe()),
          std::move(suggestion)};
}

// Any value that compares with double.
template <typename T>
ScalarResult InRange(std::optional<T> value, const YamlNode& node, const Field& row) {
  if (!value) return Expected(node, row);
  const auto number = static_cast<double>(*value);
  if (number < row.min || number > row.max || (row.above_min && number == row.min)) {
    return {nullptr, absl::StrCat("must be ", RangeText(row), ", got ", node.scalar), ""};
  }
  return {*value, "", ""};
}

ScalarResult Boolean(const YamlNode& node, const Field& row) {
  if (!node.quoted && node.scalar == "true") return {true, "", ""};
  if (!node.quoted && node.scalar == "false") return {false, "", ""};
  std::string lower = node.scalar;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  const bool yes = lower == "yes" || lower == "on" || lower == "true" || lower == "1";
  const bool no = lower == "no" || lower == "off" || lower == "false" || lower == "0";
  return Expected(node, row, yes ? "write true" : no ? "write false" : "");
}

// Whether `word` is one of "a|b".
bool IsChoice(std::string_view choices, std::string_view word) {
  for (size_t begin = 0; begin <= choices.size();) {
    const size_t end = std::min(choices.find('|', begin), choices.size());
    if (choices.substr(begin, end - begin) == word) return end > begin;
    begin = end + 1;
  }
  return false;
}

ScalarResult Choice(const YamlNode& node, const Field& row) {
  if (IsChoice(row.choices, node.scalar)) {
    if (row.type == ValueType::kIntegerChoice) return {*ReadInteger(node.scalar), "", ""};
    return {node.scalar, "", ""};
  }
  std::vector<std::string> words, later;
  for (const std::string_view word : SplitChoices(row.choices)) words.emplace_back(word);
  for (const std::string_view word : SplitChoices(row.later)) later.emplace_back(word);
  const std::string supported = absl::StrCat("supported: ", absl::StrJoin(words, ", "));
  if (std::find(later.begin(), later.end(), node.scalar) != later.end()) {
    return {nullptr, absl::StrCat("not supported yet: '", node.scalar, "'"), supported};
  }
  const std::string nearest = row.type == ValueType::kIntegerChoice ? "" : Nearest(node.scalar, words);
  return {nullptr, absl::StrCat("unknown value: ", node.Describe()),
          nearest.empty() ? supported : absl::StrCat("did you mean '", nearest, "'?")};
}

ScalarResult Path(const YamlNode& node) {
  const std::string& path = node.scalar;
  if (path.empty()) return {nullptr, "a path must not be empty", ""};
  if (path.size() > kPathBytesMax) {
    return {nullptr, absl::StrCat("the path is too long: ", path.size(), " bytes, the limit is ", kPathBytesMax), ""};
  }
  if (path.find("://") != std::string::npos && !path.starts_with("file://")) {
    return {nullptr, absl::StrCat("not supported yet: ", node.Describe()), "only local files and file:// are"};
  }
  if (absl::StrCat("/", path, "/").find("/../") != std::string::npos) {
    return {nullptr, absl::StrCat("a path must not contain '..': ", node.Describe()), ""};
  }
  return {path, "", ""};
}

ScalarResult String(const YamlNode& node, const Field& row) {
  const auto characters =
      std::count_if(node.scalar.begin(), node.scalar.end(), [](char c) { return (c & 0xC0) != 0x80; });
  if (static_cast<double>(characters) < row.min || static_cast<double>(characters) > row.max) {
    return {nullptr, absl::StrCat("the number of characters must be ", RangeText(row), ", got ", characters), ""};
  }
  return {node.scalar, "", ""};
}

}  // namespace

ScalarResult CheckScalar(const YamlNode& node, const Field& row) {
  switch (row.type) {
    case ValueType::kString:
      return String(node, row);
    case ValueType::kName:
    case ValueType::kStage:
      if (IsName(node.scalar)) return {node.scalar, "", ""};
      return {nullptr, absl::StrCat("not a name: ", node.Describe()), "up to 63 letters, digits, '-', '_' and '.'"};
    case ValueType::kPath:
    case ValueType::kPathOrMap:
      return Path(node);
    case ValueType::kInteger:
      return InRange(node.quoted ? std::nullopt : ReadInteger(node.scalar), node, row);
    case ValueType::kCount:
      return InRange(ReadCount(node.scalar), node, row);
    case ValueType::kNumber:
    case ValueType::kNumberOrMap:
      return InRange(node.quoted ? std::nullopt : ReadNumber(node.scalar), node, row);
    case ValueType::kBoolean:
      return Boolean(node, row);
    case ValueType::kChoice:
    case ValueType::kIntegerChoice:
      return Choice(node, row);
    case ValueType::kSteps:
      return InRange(ReadSteps(node.scalar), node, row);
    case ValueType::kDuration:
      return InRange(ReadDurationSeconds(node.scalar), node, row);
    case ValueType::kLimit:
      if (node.scalar == "unlimited") return {node.scalar, "", ""};
      return InRange(node.quoted ? std::nullopt : ReadInteger(node.scalar), node, row);
    case ValueType::kMap:
    case ValueType::kOpenMap:
    case ValueType::kList:
    case ValueType::kNotYet:
      break;
  }
  VLM_CHECK(false, "a scalar was checked against a row of a collection");
  return {};
}

}  // namespace vlm::spec
