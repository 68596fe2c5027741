#include "spec/diagnostic.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::spec {

std::string Position::ToString() const {
  if (source.empty() && line == 0) return "default";
  if (line == 0) return source;
  return absl::StrCat(source, ":", line, ":", column);
}

std::string Diagnostic::ToString() const {
  return absl::StrCat(at.ToString(), ": ", path.empty() ? "" : absl::StrCat(path, ": "), message,
                      suggestion.empty() ? "" : absl::StrCat("; ", suggestion));
}

void Diagnostics::Add(Diagnostic diagnostic) {
  if (kept_.size() >= kDiagnosticsMax) {
    ++dropped_;
    return;
  }
  kept_.push_back(std::move(diagnostic));
}

void Diagnostics::SortByPlace() {
  std::stable_sort(kept_.begin(), kept_.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::tie(a.at.source, a.at.line, a.at.column) < std::tie(b.at.source, b.at.line, b.at.column);
  });
}

std::string Diagnostics::ToString() const {
  std::string text;
  for (const Diagnostic& diagnostic : kept_) absl::StrAppend(&text, diagnostic.ToString(), "\n");
  if (dropped_ > 0) absl::StrAppend(&text, "and ", dropped_, " more errors\n");
  return text;
}

absl::Status Diagnostics::ToStatus() const {
  if (empty()) return absl::OkStatus();
  std::string text = ToString();
  text.pop_back();
  return absl::InvalidArgumentError(text);
}

}  // namespace vlm::spec
