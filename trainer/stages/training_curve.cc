#include "trainer/stages/training_curve.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::trainer {

void TrainingCurve::Add(uint64_t step, std::string line) {
  const auto off_stride = [&](const Point& point) { return (point.step - 1) % stride_ != 0; };
  if (!points_.empty() && off_stride(points_.back())) points_.pop_back();  // it stood there as the newest
  while ((step - 1) / stride_ >= points_max_) {
    stride_ *= 2;
    std::erase_if(points_, off_stride);
  }
  points_.push_back({step, std::move(line)});
}

absl::Status TrainingCurve::Restore(std::string_view contents) {
  stride_ = 1;
  points_.clear();
  uint64_t newest = 0;
  while (!contents.empty()) {
    const size_t end = contents.find('\n');
    const std::string_view line = contents.substr(0, end == std::string_view::npos ? end : end + 1);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_unsigned() ||
        json["step"].get<uint64_t>() <= newest) {
      return absl::DataLossError(absl::StrCat("a line is no step after step ", newest));
    }
    newest = json["step"].get<uint64_t>();
    Add(newest, std::string(line));
    contents.remove_prefix(line.size());
  }
  return absl::OkStatus();
}

std::string TrainingCurve::Contents() const {
  std::string contents;
  for (const Point& point : points_) contents += point.line;
  return contents;
}

}  // namespace vlm::trainer
