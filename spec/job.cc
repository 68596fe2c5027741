#include "spec/job.h"

#include <algorithm>
#include <functional>
#include <set>

#include "base/check.h"
#include "spec/words.h"

namespace vlm::spec {

std::string_view StageKindName(StageKind kind) { return WordOf(kind); }

std::string_view FailureClassName(FailureClass failure) { return WordOf(failure); }

bool IsPool(StageKind kind) {
  switch (kind) {
    case StageKind::kGenerate:
    case StageKind::kIndex:
    case StageKind::kTokenizer:
    case StageKind::kEvaluate:
      return true;
    case StageKind::kPretrain:
    case StageKind::kAlign:
    case StageKind::kSft:
      return false;
  }
  VLM_CHECK(false, "unknown stage kind");
  return false;
}

const Stage* FindStage(const Job& job, std::string_view name) {
  const auto found =
      std::find_if(job.stages.begin(), job.stages.end(), [&](const Stage& stage) { return stage.name == name; });
  return found == job.stages.end() ? nullptr : &*found;
}

std::vector<std::string> Ancestors(const Job& job, std::string_view name) {
  std::vector<std::string> order;
  std::set<std::string, std::less<>> seen{std::string(name)};
  // Terminates: a checked job has no cycle and at most kStagesMax stages.
  const std::function<void(std::string_view)> visit = [&](std::string_view stage) {
    const Stage* found = FindStage(job, stage);
    VLM_CHECK(found != nullptr, "no such stage");
    for (const std::string& parent : found->needs) {
      if (!seen.insert(parent).second) continue;
      visit(parent);
      order.push_back(parent);
    }
  };
  visit(name);
  return order;
}

}  // namespace vlm::spec
