#include "tests/sim/catalog_rules.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "tests/sim/simulated_service.h"

namespace vlm::sim {
namespace {

std::string NameOf(const checkpoint::StepKey& key) {
  return absl::StrCat("step ", key.step, " of attempt ", key.fence);
}

}  // namespace

CatalogRules::Complete CatalogRules::CompleteOf(const checkpoint::CheckpointCore& core) {
  Complete complete;
  for (const v1::Step& step : core.Steps()) {
    if (step.state() != v1::STEP_STATE_COMPLETE) continue;
    CompleteStep& known = complete[{step.stage_uid(), step.step(), step.fence()}];
    known.folder = step.folder();
    for (const v1::StepFile& file : step.files()) known.files.push_back({file.name(), file.bytes(), file.digest()});
  }
  return complete;
}

void CatalogRules::Started(const checkpoint::CheckpointCore& core) {
  Complete loaded = CompleteOf(core);
  std::set<checkpoint::StepKey> damaged;
  for (const v1::Step& step : core.Steps()) {
    if (step.state() == v1::STEP_STATE_DAMAGED) damaged.insert({step.stage_uid(), step.step(), step.fence()});
  }
  for (const auto& [key, step] : complete_) {
    if (!step.told) continue;
    const auto found = loaded.find(key);
    if (found == loaded.end()) {
      if (!damaged.contains(key)) CheckGone(key, loaded);
    } else if (!(found->second == step)) {
      fail_(absl::StrCat("a COMPLETE step has other files after a restart: ", step.folder));
    } else {
      found->second.told = true;
    }
  }
  complete_ = std::move(loaded);
}

void CatalogRules::CheckGone(const checkpoint::StepKey& key, const Complete& left) {
  const auto published = published_.find(key.stage_uid);
  if (published != published_.end() && published->second == key) {
    fail_(absl::StrCat("the step behind an artifact goes: ", NameOf(key)));
  }
  const auto newer = left.upper_bound(key);
  if (newer == left.end() || newer->first.stage_uid != key.stage_uid) {
    fail_(absl::StrCat("the newest COMPLETE step of a stage goes: ", NameOf(key)));
  }
}

void CatalogRules::Decided(const checkpoint::CheckpointCore& core,
                           const std::vector<checkpoint::CatalogEvent>& events) {
  using Kind = checkpoint::CatalogEvent::Kind;
  for (const checkpoint::CatalogEvent& event : events) {
    const checkpoint::StepKey& key = event.step;
    if (event.kind == Kind::kBegun || event.kind == Kind::kCommitted) {
      const uint64_t lowest = core.MinFence(key.stage_uid);
      if (key.fence != lowest) {
        fail_(absl::StrCat(NameOf(key), event.kind == Kind::kBegun ? " was begun" : " was committed",
                           " while the stage's attempt is ", lowest));
      }
    }
    if (event.kind == Kind::kCommitted) {
      Complete now = CompleteOf(core);
      // Its retention may have decided more at once; what goes is looked at by the events that follow.
      if (const auto found = now.find(key); found != now.end()) {
        CheckStep(found->second, /*contents=*/true);
        complete_[key] = found->second;
      }
    } else if (event.kind == Kind::kDamaged) {
      complete_.erase(key);
    } else if (event.kind == Kind::kDeleting && complete_.erase(key) > 0) {
      CheckGone(key, complete_);
    }
  }
}

void CatalogRules::Told(const checkpoint::CatalogEvent& event) {
  using Kind = checkpoint::CatalogEvent::Kind;
  if (event.kind == Kind::kPublished) published_[event.step.stage_uid] = event.step;
  if (event.kind == Kind::kDamaged) {
    const auto published = published_.find(event.step.stage_uid);
    if (published != published_.end() && published->second == event.step) published_.erase(published);
  }
  if (event.kind != Kind::kCommitted) return;
  if (const auto found = complete_.find(event.step); found != complete_.end()) found->second.told = true;
  // A commit may be decided before an OpenAttempt of a higher fence and told after it; then it is its answer.
  const auto opened = opened_.find(event.step.stage_uid);
  if (opened != opened_.end() && event.step.fence < opened->second) {
    fail_(absl::StrCat(NameOf(event.step), " was committed after attempt ", opened->second, " was opened"));
  }
}

void CatalogRules::Opened(const std::string& stage_uid, uint64_t fence) {
  uint64_t& highest = opened_[stage_uid];
  highest = std::max(highest, fence);
}

void CatalogRules::CheckStep(const CompleteStep& step, bool contents) {
  const auto damages = contents ? checkpoint::VerifyFiles(files_, step.folder, step.files)
                                : checkpoint::CheckFiles(files_, step.folder, step.files);
  if (damages.ok() && damages->empty()) return;
  fail_(absl::StrCat(
      "a COMPLETE step is not as committed: ", step.folder, ": ",
      damages.ok() ? absl::StrCat(damages->front().file, " ", damages->front().detail) : damages.status().ToString()));
}

void CatalogRules::CheckFiles(bool contents) {
  for (const auto& [key, step] : complete_) CheckStep(step, contents);
}

void CatalogRules::CheckAtRest(const checkpoint::CheckpointCore& core) {
  std::set<std::string> folders;
  std::map<checkpoint::StepKey, v1::Step> steps;
  for (const v1::Step& step : core.Steps()) {
    const checkpoint::StepKey key{step.stage_uid(), step.step(), step.fence()};
    folders.insert(step.folder());
    steps[key] = step;
    if (step.state() == v1::STEP_STATE_DELETING) fail_(absl::StrCat("a deletion was not finished: ", step.folder()));
    if (step.state() == v1::STEP_STATE_WRITING && step.fence() < core.MinFence(step.stage_uid())) {
      fail_(absl::StrCat("a step of a replaced attempt is still being written: ", step.folder()));
    }
  }
  for (const auto& [uid, key] : published_) {
    const auto found = steps.find(key);
    const auto holds = found == steps.end() ? google::protobuf::RepeatedPtrField<std::string>() : found->second.holds();
    if (std::find(holds.begin(), holds.end(), "OUTPUT") != holds.end()) continue;
    fail_(absl::StrCat("nothing keeps the step behind an artifact: ", NameOf(key)));
  }
  const std::string jobs = absl::StrCat(kArtifactsRoot, "/jobs");
  const auto list = [this](const std::string& folder) {
    return files_->List(folder).value_or(std::vector<std::string>());
  };
  for (const std::string& job : list(jobs)) {
    for (const std::string& stage : list(absl::StrCat(jobs, "/", job))) {
      for (const std::string& step : list(absl::StrCat(jobs, "/", job, "/", stage))) {
        const std::string folder = absl::StrCat(jobs, "/", job, "/", stage, "/", step);
        if (!folders.contains(folder)) fail_(absl::StrCat("a folder has no row and stays for ever: ", folder));
      }
    }
  }
}

}  // namespace vlm::sim
