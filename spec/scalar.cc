#include "spec/scalar.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace vlm::spec {
namespace {

constexpr size_t kNumberBytesMax = 64;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlphanumeric(char c) { return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// "-4", "" or "12": one end of a slice.
bool IsSliceEnd(std::string_view text) {
  if (!text.empty() && text[0] == '-')
    text.remove_prefix(1);
  else if (text.empty())
    return true;
  return !text.empty() && text.size() <= 6 && std::all_of(text.begin(), text.end(), IsDigit);
}

}  // namespace

std::optional<int64_t> ReadInteger(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> ReadNumber(std::string_view text) {
  if (text.empty() || text.size() > kNumberBytesMax) return std::nullopt;
  const size_t digit = text[0] == '-' ? 1 : 0;
  if (digit >= text.size() || (!IsDigit(text[digit]) && text[digit] != '.')) return std::nullopt;  // no inf, no nan
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<int64_t> ReadCount(std::string_view text) {
  if (text.empty()) return std::nullopt;
  int zeros = 0;
  switch (text.back()) {
    case 'K':
      zeros = 3;
      break;
    case 'M':
      zeros = 6;
      break;
    case 'B':
      zeros = 9;
      break;
    case 'T':
      zeros = 12;
      break;
    default:
      return ReadInteger(text);
  }
  text.remove_suffix(1);
  const size_t point = text.find('.');
  std::string digits(text.substr(0, point));
  const std::string_view fraction = point == std::string_view::npos ? std::string_view() : text.substr(point + 1);
  if (digits.empty() || !IsDigit(digits.back()) || (point != std::string_view::npos && fraction.empty()) ||
      fraction.size() > static_cast<size_t>(zeros) || !std::all_of(fraction.begin(), fraction.end(), IsDigit)) {
    return std::nullopt;
  }
  digits += fraction;
  digits.append(zeros - fraction.size(), '0');
  return ReadInteger(digits);
}

std::optional<int64_t> ReadSteps(std::string_view text) {
  for (const std::string_view unit : {std::string_view(" steps"), std::string_view(" step")}) {
    if (text.ends_with(unit)) {
      text.remove_suffix(unit.size());
      break;
    }
  }
  return ReadCount(text);
}

std::optional<double> ReadDurationSeconds(std::string_view text) {
  if (text.empty() || text.size() > kNumberBytesMax || !IsDigit(text[0])) return std::nullopt;
  absl::Duration duration;
  if (text.find_first_not_of("0123456789.hms") != std::string_view::npos ||
      !absl::ParseDuration(absl::string_view(text.data(), text.size()), &duration)) {
    return std::nullopt;
  }
  if (duration == absl::InfiniteDuration()) return std::nullopt;
  return absl::ToDoubleSeconds(duration);
}

bool IsName(std::string_view text) {
  constexpr size_t kNameBytesMax = 63;
  if (text.empty() || text.size() > kNameBytesMax || !IsAlphanumeric(text[0])) return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return IsAlphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

bool IsTrainableSelector(std::string_view text) {
  if (text == "all") return true;
  for (const std::string_view group : {"llm", "vision", "connector"}) {
    if (text == group) return true;
    if (group == "connector" || !text.starts_with(group)) continue;
    const std::string_view rest = text.substr(group.size());
    if (!rest.starts_with(".blocks[") || !rest.ends_with("]")) return false;
    const std::string_view slice = rest.substr(8, rest.size() - 9);
    const size_t colon = slice.find(':');
    if (colon == std::string_view::npos) return !slice.empty() && IsSliceEnd(slice);
    return IsSliceEnd(slice.substr(0, colon)) && IsSliceEnd(slice.substr(colon + 1));
  }
  return false;
}

}  // namespace vlm::spec
