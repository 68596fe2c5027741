#include "spec/elaborate.h"

#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "spec/check.h"
#include "spec/checked_json.h"
#include "spec/expand.h"
#include "spec/rules.h"
#include "spec/schema.h"
#include "spec/stage_graph.h"
#include "spec/stage_json.h"
#include "spec/words.h"

namespace vlm::spec {
namespace {

void ApplyRetry(const CheckedJson& rules, std::map<FailureClass, RetryRule>* retry) {
  for (const CheckedJson& rule : rules) {
    RetryRule parsed;
    if (!rule.at("limit").is_string()) parsed.limit = rule.at("limit").get<int32_t>();
    const CheckedJson& backoff = rule.at("backoff");
    parsed.backoff_base = absl::Seconds(backoff.at("base").get<double>());
    parsed.backoff_factor = backoff.at("factor").get<double>();
    parsed.backoff_max = absl::Seconds(backoff.at("max").get<double>());
    for (const CheckedJson& word : rule.at("on")) (*retry)[*FromWord<FailureClass>(word.get<std::string>())] = parsed;
  }
}

// The built-in rules, as the schema's default has them.
const std::map<FailureClass, RetryRule>& RetryDefaults() {
  static const auto* const defaults = [] {
    constexpr char kSmallest[] =
        "{metadata: {name: a}, spec: {stages: [{name: a, kind: generate, generate: "
        "{splits: [{name: captions, samples: 1}]}}]}}";
    Diagnostics diagnostics;
    std::optional<YamlNode> root = ReadYaml(kSmallest, "schema", &diagnostics);
    const Checked checked = CheckJob(&*root, &diagnostics);
    VLM_CHECK(diagnostics.empty(), diagnostics.ToString());
    auto* retry = new std::map<FailureClass, RetryRule>();
    ApplyRetry(checked.json.at("spec").at("retry"), retry);
    return retry;
  }();
  return *defaults;
}

Job MakeJob(const CheckedJson& in, std::vector<std::optional<Stage>> stages) {
  const CheckedJson& spec = in.at("spec");
  Job job;
  job.name = in.at("metadata").at("name").get<std::string>();
  job.labels = in.at("metadata").at("labels").get<std::map<std::string, std::string>>();
  job.seed = spec.at("seed").get<uint64_t>();
  job.ranks = {spec.at("ranks").at("min").get<int32_t>(), spec.at("ranks").at("max").get<int32_t>()};
  if (spec.at("resources").contains("gpu")) job.gpu = spec.at("resources").at("gpu").get<int32_t>();
  if (spec.contains("artifacts")) {
    constexpr std::string_view kScheme = "file://";
    job.artifacts = spec.at("artifacts").get<std::string>();
    if (job.artifacts.starts_with(kScheme)) job.artifacts.erase(0, kScheme.size());
  }
  job.retry = RetryDefaults();
  ApplyRetry(spec.at("retry"), &job.retry);
  job.no_progress_restarts_max = spec.at("stop_if").at("no_progress_restarts").get<int32_t>();
  for (std::optional<Stage>& stage : stages) job.stages.push_back(*std::move(stage));
  return job;
}

void RefuseExtends(const YamlNode& root, Diagnostics* diagnostics) {
  for (const YamlEntry& entry : root.entries) {
    if (entry.key == "extends") {
      diagnostics->Add({"extends", entry.at.ToPosition(), "the file is not composed yet",
                        "vlmctl submit and vlmctl render compose files"});
    }
  }
}

}  // namespace

std::optional<Job> ElaborateJob(YamlNode* root, Diagnostics* diagnostics) {
  RefuseExtends(*root, diagnostics);
  ExpandJob(root, diagnostics);
  Checked checked = CheckJob(root, diagnostics);
  CheckJobRules(*root, diagnostics);
  const std::vector<std::vector<std::string>> needs = ResolveStageGraph(root, diagnostics);
  std::vector<std::optional<Stage>> stages(checked.stage_fits.size());
  for (size_t i = 0; i < stages.size(); ++i) {
    if (!checked.stage_fits[i] || i >= needs.size()) continue;
    CheckedJson& stage = checked.json.at("spec").at("stages").at(i);
    stage["needs"] = needs[i];
    stages[i] = FromCheckedJson(stage);
  }
  CheckRules(*root, stages, diagnostics);
  diagnostics->SortByPlace();
  if (!diagnostics->empty()) return std::nullopt;
  return MakeJob(checked.json, std::move(stages));
}

}  // namespace vlm::spec
