// The way of a job file: composed (with files it extends and overrides), parsed, checked, rendered, and its stages to
// canonical JSON and back.
//
// An input is the job file; behind a zero byte a second file, "base.yaml", and behind further ones overrides.
#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/simulated_file_system.h"
#include "spec/canonical.h"
#include "spec/compose.h"
#include "spec/parse.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/memory_file.h"

namespace vlm::spec {
namespace {

constexpr size_t kOverridesMax = 8;

constexpr std::string_view kHead =
    "metadata: {name: a}\n"
    "spec:\n"
    "  stages:\n"
    "    - {name: g, kind: generate, generate: {splits: [{name: captions, samples: 10}]}}\n";
constexpr std::string_view kStages =
    "    - {name: t, kind: tokenizer, data: {text: [{stage: g, splits: [captions]}]}}\n"
    "    - name: p\n"
    "      kind: pretrain\n"
    "      model: {text: {hidden: 32, layers: 2, heads: 4, intermediate: 64}}\n"
    "      data: {mixture: [{source: corpus/*.jsonl}]}\n"
    "      train: {steps: 10, lr: 1e-3, zero: 2, overlap: true}\n"
    "    - name: a\n"
    "      kind: align\n"
    "      model:\n"
    "        llm: {from: {stage: p}}\n"
    "        vision: {hidden: 32, layers: 1, heads: 2, intermediate: 64, image_size: 24, patch: 6}\n"
    "      data: {mixture: [{source: {stage: g, split: captions}}]}\n"
    "    - name: s\n"
    "      kind: sft\n"
    "      model: {from: {stage: a}}\n"
    "      data: {mixture: [{source: {stage: g, split: captions}, weight: 2}]}\n"
    "      train: {epochs: 1, microbatch_tokens: 512}\n";

// What a worker and a stage key need of every job that is accepted.
void CheckStages(const Job& job) {
  for (const Stage& stage : job.stages) {
    const std::string json = StageToJson(stage);
    const absl::StatusOr<Stage> again = StageFromJson(json);
    VLM_CHECK(again.ok(), again.status().ToString());
    VLM_CHECK(StageToJson(*again) == json, "a stage's JSON changed on the way: " + json);
    VLM_CHECK(SemanticDigest(*again) == SemanticDigest(stage), "a stage's digest changed on the way: " + json);
    Ancestors(job, stage.name);
  }
}

void Parse(std::string_view text) {
  Diagnostics diagnostics;
  const std::optional<Job> job = ParseJob(text, "job.yaml", &diagnostics);
  VLM_CHECK(job.has_value() == diagnostics.empty(), "refused without a reason, or accepted with one");
  if (job.has_value()) CheckStages(*job);
}

void ComposeAndParse(const std::vector<std::string>& parts) {
  SimulatedFileSystem files;
  fuzz::PutFile(&files, "/job.yaml", parts[0]);
  if (parts.size() > 1) fuzz::PutFile(&files, "/base.yaml", parts[1]);
  const std::vector<std::string> overrides(parts.begin() + std::min<size_t>(parts.size(), 2),
                                           parts.begin() + std::min(parts.size(), 2 + kOverridesMax));
  Diagnostics diagnostics;
  const std::optional<std::string> text = Compose(&files, "/job.yaml", overrides, &diagnostics);
  VLM_CHECK(text.has_value() == diagnostics.empty(), "refused without a reason, or composed with one");
  if (!text.has_value()) return;
  Diagnostics of_composed;
  const std::optional<Job> job = ParseJob(*text, "composed", &of_composed);
  VLM_CHECK(job.has_value(), "a composed job is refused: " + of_composed.ToString() + "\n" + *text);
  CheckStages(*job);
}

}  // namespace
}  // namespace vlm::spec

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::vector<std::string> parts = absl::StrSplit(absl::string_view(input.data(), input.size()), '\0');
  vlm::spec::ComposeAndParse(parts);
  vlm::spec::Parse(parts[0]);
  const absl::StatusOr<vlm::spec::Stage> stage = vlm::spec::StageFromJson(parts[0]);
  if (stage.ok()) {
    const std::string json = vlm::spec::StageToJson(*stage);
    VLM_CHECK(vlm::spec::StageFromJson(json).ok(), "a stage that was read cannot be read again: " + json);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  using vlm::spec::kHead;
  using vlm::spec::kStages;
  const std::string head(kHead);
  const std::string full = head + std::string(kStages);
  std::vector<std::string> seeds = {head, full, "", "a: &x [1]\nb: *x\n"};
  seeds.push_back(head + '\0' + std::string(kStages) + '\0' + "spec.seed=7" + '\0' + "spec.stages[g].ranks=2");
  seeds.push_back("extends: base.yaml\nmetadata: {name: b}\n" + std::string(1, '\0') + full + '\0' +
                  "spec.stages[p].train.lr=1e-5" + '\0' + "spec.stages[0].generate=");
  vlm::spec::Diagnostics diagnostics;
  const auto job = vlm::spec::ParseJob(head, "seed", &diagnostics);
  VLM_CHECK(job.has_value(), diagnostics.ToString());
  for (const vlm::spec::Stage& stage : job->stages) seeds.push_back(vlm::spec::StageToJson(stage));
  return seeds;
}
