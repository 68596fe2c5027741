#include "data/batch_plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "data/packing.h"

namespace vlm::data {

std::string Cursor::Encode() const { return absl::StrCat("{\"window\":", window, ",\"row\":", row, "}"); }

absl::StatusOr<Cursor> Cursor::Decode(std::string_view text) {
  if (text.empty()) return Cursor{};
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("window") || !json.contains("row") || !json["window"].is_number_unsigned() ||
      !json["row"].is_number_unsigned()) {
    return absl::InvalidArgumentError("data cursor does not parse: " + std::string(text));
  }
  return Cursor{json["window"].get<uint64_t>(), json["row"].get<uint64_t>()};
}

std::vector<Row> StepBatch::MicroBatch(uint32_t m) const {
  const size_t begin = std::min<size_t>(rows.size(), size_t{m} * micro_batch);
  const size_t end = std::min<size_t>(rows.size(), begin + micro_batch);
  return std::vector<Row>(rows.begin() + static_cast<ptrdiff_t>(begin), rows.begin() + static_cast<ptrdiff_t>(end));
}

absl::StatusOr<BatchPlan> BatchPlan::Create(const Manifest* manifest, const BatchOptions& options) {
  if (options.global_batch == 0 || options.micro_batch == 0) {
    return absl::InvalidArgumentError("global_batch and micro_batch must be at least 1");
  }
  std::vector<MixtureSource> sources;
  std::vector<uint64_t> first;
  for (const MixtureEntry& entry : options.mixture) {
    const ManifestSource* const source = manifest->FindSource(entry.source);
    if (source == nullptr) {
      std::string known;
      for (const ManifestSource& one : manifest->sources) absl::StrAppend(&known, known.empty() ? "" : ", ", one.name);
      return absl::NotFoundError("mixture names a source the index does not have (it has: " + known +
                                 "): " + entry.source);
    }
    const uint64_t samples = entry.stop == 0 ? source->samples : std::min(entry.stop, source->samples);
    sources.push_back({samples, entry.weight});
    first.push_back(source->first);
  }
  VLM_ASSIGN_OR_RETURN(Order order, Order::Create(RngKey{options.seed}.Derive("order"), std::move(sources)));
  return BatchPlan(manifest, options, std::move(first), std::move(order));
}

uint64_t BatchPlan::SampleAt(uint64_t position) const {
  const Drawn drawn = order_.At(position);
  return first_[static_cast<size_t>(drawn.source)] + drawn.sample;
}

const std::vector<Row>& BatchPlan::Window(uint64_t window) {
  if (window == cached_window_) return cached_rows_;
  std::vector<uint64_t> samples(kWindow);
  std::vector<uint32_t> lengths(kWindow);
  for (uint64_t i = 0; i < kWindow; ++i) {
    samples[i] = SampleAt(window * kWindow + i);
    lengths[i] = manifest_->samples[samples[i]].tokens;
  }
  const RngKey key = RngKey{options_.seed}.Derive("packs").Derive(window);
  cached_rows_.clear();
  for (const Pack& pack : PackWindow(lengths, static_cast<uint32_t>(manifest_->render.context), key)) {
    Row row;
    for (const uint32_t item : pack) row.push_back(samples[item]);
    cached_rows_.push_back(std::move(row));
  }
  cached_window_ = window;
  return cached_rows_;
}

StepBatch BatchPlan::Next(const Cursor& cursor) {
  StepBatch batch{{}, cursor, options_.micro_batch};
  while (batch.rows.size() < options_.global_batch) {
    if (!options_.packing) {
      batch.rows.push_back({SampleAt(batch.next.row++)});
      continue;
    }
    const std::vector<Row>& rows = Window(batch.next.window);
    if (batch.next.row >= rows.size()) {
      ++batch.next.window;
      batch.next.row = 0;
      continue;
    }
    batch.rows.push_back(rows[batch.next.row++]);
  }
  return batch;
}

uint64_t BatchPlan::StepsOf(double epochs) {
  const double positions = epochs * static_cast<double>(order_.positions_per_epoch());
  double rows = positions;
  if (options_.packing) {
    constexpr uint64_t kWindowsLooked = 16;
    const uint64_t windows = std::clamp<uint64_t>(static_cast<uint64_t>(positions) / kWindow, 1, kWindowsLooked);
    uint64_t packs = 0;
    for (uint64_t window = 0; window < windows; ++window) packs += Window(window).size();
    rows = positions * static_cast<double>(packs) / static_cast<double>(windows * kWindow);
  }
  return std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(rows / options_.global_batch)));
}

Digest BatchPlan::Fingerprint(std::string_view manifest_digest) const {
  std::string text =
      absl::StrCat("order ", kOrderVersion, " seed ", options_.seed, " global_batch ", options_.global_batch,
                   " micro_batch ", options_.micro_batch, " packing ", options_.packing, " manifest ",
                   absl::string_view(manifest_digest.data(), manifest_digest.size()));
  for (const MixtureEntry& entry : options_.mixture) {
    absl::StrAppend(&text, " source ", entry.source, " ", entry.weight, " ", entry.stop);
  }
  return Sha256Of(text);
}

}  // namespace vlm::data
