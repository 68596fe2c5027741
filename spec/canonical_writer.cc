#include "spec/canonical_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace vlm::spec {
namespace {

bool IsVerbatim(char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

}  // namespace

void CanonicalWriter::String(std::string_view text) {
  if (!std::all_of(text.begin(), text.end(), IsVerbatim)) return Append(nlohmann::json(text).dump());
  Append("\"");
  Append(text);
  Append("\"");
}

void CanonicalWriter::Number(double value) { Append(nlohmann::json(value).dump()); }

void CanonicalWriter::CloseObject(size_t first, size_t all, size_t semantic) {
  struct Span {
    std::string_view key, all, semantic;
    bool is_semantic;
  };
  std::vector<Span> spans;
  spans.reserve(parts_.size() - first);
  for (size_t i = first; i < parts_.size(); ++i) {
    const bool last = i + 1 == parts_.size();
    const size_t all_end = last ? all_.size() : parts_[i + 1].all;
    const size_t semantic_end = last ? semantic_.size() : parts_[i + 1].semantic;
    spans.push_back({parts_[i].key, std::string_view(all_).substr(parts_[i].all, all_end - parts_[i].all),
                     std::string_view(semantic_).substr(parts_[i].semantic, semantic_end - parts_[i].semantic),
                     parts_[i].is_semantic});
  }
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.key < b.key; });
  sorted_ = "{";
  for (const Span& span : spans) (sorted_ += sorted_.size() > 1 ? "," : "") += span.all;
  const size_t all_length = sorted_.size();
  if (schema_ != nullptr) {
    sorted_ += '{';
    for (const Span& span : spans) {
      if (span.is_semantic) (sorted_ += sorted_.size() > all_length + 1 ? "," : "") += span.semantic;
    }
    semantic_.replace(semantic, std::string::npos, sorted_, all_length, std::string::npos) += '}';
  }
  all_.replace(all, std::string::npos, sorted_, 0, all_length) += '}';
  parts_.resize(first);
}

}  // namespace vlm::spec
