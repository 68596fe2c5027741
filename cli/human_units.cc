#include "cli/human_units.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vlm::cli {

std::string HumanDuration(absl::Duration duration) {
  if (duration == absl::InfiniteDuration()) return "-";
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(duration));
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%dm %02ds", whole / 60, whole % 60);
  const int64_t minutes = whole / 60;
  if (minutes < 24 * 60) return absl::StrFormat("%dh %02dm", minutes / 60, minutes % 60);
  const int64_t hours = minutes / 60;
  return absl::StrFormat("%dd %02dh", hours / 24, hours % 24);
}

std::string HumanAgo(absl::Time then, absl::Time now) {
  if (then == absl::InfinitePast()) return "-";
  return absl::StrCat(HumanDuration(now - then), " ago");
}

std::string HumanBytes(uint64_t bytes) {
  constexpr std::array<const char*, 6> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string HumanRate(double per_second) {
  if (!std::isfinite(per_second)) return absl::StrFormat("%g", per_second);
  if (per_second < 0.995) return absl::StrFormat("%.2f", per_second);
  if (per_second < 99.5) return absl::StrFormat("%.1f", per_second);
  if (per_second < 999.5) return absl::StrFormat("%.0f", per_second);
  if (per_second < 999'950) return absl::StrFormat("%.1fk", per_second / 1e3);
  return absl::StrFormat("%.2fM", per_second / 1e6);
}

std::string HumanLoss(double loss) {
  if (!std::isfinite(loss)) return absl::StrFormat("%g", loss);
  return std::abs(loss) < 0.01 ? absl::StrFormat("%.2g", loss) : absl::StrFormat("%.3f", loss);
}

}  // namespace vlm::cli
