#include "data/sample.h"

#include <algorithm>

namespace vlm::data {
namespace {

int64_t TokensOf(const std::variant<TextRun, ImageSpan>& part) {
  if (const auto* run = std::get_if<TextRun>(&part)) return static_cast<int64_t>(run->ids.size());
  return std::get<ImageSpan>(part).tokens;
}

}  // namespace

int64_t Sample::tokens() const {
  int64_t count = 0;
  for (const auto& part : parts) count += TokensOf(part);
  return count;
}

int64_t Sample::targets() const {
  int64_t count = 0, position = 0;
  for (const auto& part : parts) {
    const auto* run = std::get_if<TextRun>(&part);
    if (run != nullptr && run->target) {
      count += static_cast<int64_t>(run->ids.size()) - (position == 0 && !run->ids.empty() ? 1 : 0);
    }
    position += TokensOf(part);
  }
  return count;
}

int32_t Sample::images() const {
  return static_cast<int32_t>(std::count_if(parts.begin(), parts.end(),
                                            [](const auto& part) { return std::holds_alternative<ImageSpan>(part); }));
}

int64_t Truncate(Sample* sample, int64_t tokens_max) {
  const int64_t before = sample->tokens();
  int64_t room = tokens_max;
  for (size_t i = 0; i < sample->parts.size(); ++i) {
    const int64_t tokens = TokensOf(sample->parts[i]);
    if (tokens <= room) {
      room -= tokens;
      continue;
    }
    if (auto* run = std::get_if<TextRun>(&sample->parts[i]); run != nullptr && room > 0) {
      run->ids.resize(static_cast<size_t>(room));
      ++i;
    }
    sample->parts.resize(i);
    break;
  }
  return before - sample->tokens();
}

}  // namespace vlm::data
