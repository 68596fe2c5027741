#include "cli/follow_view.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/human_units.h"
#include "cli/job_views.h"
#include "cli/table.h"

namespace vlm::cli {
namespace {

constexpr int kBarCells = 20;

std::string Mark(v1::StageState state) {
  switch (state) {
    case v1::STAGE_STATE_SUCCEEDED:
    case v1::STAGE_STATE_REUSED:
      return "ok";
    case v1::STAGE_STATE_FAILED:
    case v1::STAGE_STATE_UPSTREAM_FAILED:
      return "!!";
    case v1::STAGE_STATE_CANCELLED:
      return "--";
    case v1::STAGE_STATE_ACTIVE:
    case v1::STAGE_STATE_PUBLISHING:
      return "->";
    default:
      return "  ";
  }
}

std::string Bar(int percent) {
  const int filled = percent * kBarCells / 100;
  return absl::StrCat("[", std::string(static_cast<size_t>(filled), '='),
                      std::string(static_cast<size_t>(kBarCells - filled), ' '), "]");
}

void AddPart(std::string part, std::string* text) {
  if (part.empty()) return;
  absl::StrAppend(text, text->empty() ? "" : ", ", part);
}

// "loss 2.314, 12.3k tokens/s, 41 pictures/s, 1m 20s left"
std::string RateText(const v1::Progress& progress) {
  std::string text;
  if (progress.loss() != 0) AddPart(absl::StrCat("loss ", HumanLoss(progress.loss())), &text);
  if (progress.tokens_per_second() > 0) {
    AddPart(absl::StrCat(HumanRate(progress.tokens_per_second()), " tokens/s"), &text);
  }
  if (progress.images_per_second() > 0) {
    AddPart(absl::StrCat(HumanRate(progress.images_per_second()), " pictures/s"), &text);
  }
  if (progress.has_left()) AddPart(absl::StrCat(HumanDuration(FromProto(progress.left())), " left"), &text);
  return text;
}

std::string RestartText(const v1::Stage& stage) {
  if (stage.restarts() == 0) return "";
  return absl::StrCat(stage.restarts(), stage.restarts() == 1 ? " restart" : " restarts");
}

std::string EndText(const v1::Stage& stage, absl::Time wall) {
  std::string text;
  if (stage.state() == v1::STAGE_STATE_REUSED) return "unchanged, reused";
  AddPart(DurationText(stage, wall), &text);
  if (stage.state() == v1::STAGE_STATE_SUCCEEDED) {
    AddPart(DoneText(stage), &text);
    if (stage.progress().loss() != 0) AddPart(absl::StrCat("loss ", HumanLoss(stage.progress().loss())), &text);
  }
  AddPart(RestartText(stage), &text);
  if (stage.state() != v1::STAGE_STATE_SUCCEEDED) AddPart(stage.reason(), &text);
  return text;
}

// Everything behind name and state.
std::string LiveText(const v1::Stage& stage, absl::Time wall) {
  if (IsFinal(stage.state())) return EndText(stage, wall);
  std::string text;
  const bool runs = stage.state() == v1::STAGE_STATE_ACTIVE && stage.attempt_state() == v1::ATTEMPT_STATE_RUNNING;
  if (!runs) {
    AddPart(stage.reason(), &text);
    AddPart(RestartText(stage), &text);
    return text;
  }
  const int percent = Percent(stage.progress());
  if (percent >= 0) text = absl::StrCat(Bar(percent), " ");
  std::string behind = DoneText(stage);
  AddPart(RateText(stage.progress()), &behind);
  AddPart(RestartText(stage), &behind);
  return text + behind;
}

}  // namespace

void FollowView::SetJob(v1::Job job) { job_ = std::move(job); }

void FollowView::SetProgress(const std::string& stage, const v1::Progress& progress) {
  for (v1::Stage& candidate : *job_.mutable_stages()) {
    if (candidate.name() == stage && !IsFinal(candidate.state())) *candidate.mutable_progress() = progress;
  }
}

std::vector<std::string> FollowView::LiveLines(absl::Time wall) const {
  std::vector<std::string> lines;
  std::string head = absl::StrCat(job_.job_id(), "  ", Word(job_.state()));
  const absl::Time end = job_.has_ended_at() ? FromProto(job_.ended_at()) : wall;
  if (job_.has_submitted_at()) absl::StrAppend(&head, "  ", HumanDuration(end - FromProto(job_.submitted_at())));
  lines.push_back(std::move(head));
  size_t name_width = 0, state_width = 0;
  for (const v1::Stage& stage : job_.stages()) {
    name_width = std::max(name_width, DisplayWidth(stage.name()));
    state_width = std::max(state_width, Word(stage.state()).size());
  }
  for (const v1::Stage& stage : job_.stages()) {
    lines.push_back(absl::StrCat("  ", Mark(stage.state()), " ", PadTo(stage.name(), name_width + 2),
                                 PadTo(Word(stage.state()), state_width + 2), LiveText(stage, wall)));
  }
  if (away_) lines.push_back("the coordinator does not answer; trying again (Ctrl-C leaves, the job goes on)");
  return lines;
}

std::vector<std::string> FollowView::TakePlainLines(absl::Time wall, absl::Duration now) {
  std::vector<std::string> lines;
  if (away_ != away_shown_) {
    lines.push_back(away_ ? "the coordinator does not answer; trying again" : "the coordinator is back");
    away_shown_ = away_;
  }
  for (const v1::Stage& stage : job_.stages()) {
    Shown& shown = shown_[stage.name()];
    const bool changed = shown.state != stage.state() || shown.restarts != stage.restarts();
    const bool moved = stage.state() == v1::STAGE_STATE_ACTIVE && shown.done != stage.progress().done();
    if (!changed && !(moved && now - shown.at >= kPlainInterval)) continue;
    // Waiting for its parents is where every stage begins: no news.
    const bool silent = shown.state == v1::STAGE_STATE_UNSPECIFIED && stage.state() == v1::STAGE_STATE_BLOCKED;
    shown = {stage.state(), stage.restarts(), stage.progress().done(), now};
    if (silent) continue;
    std::string text;
    if (stage.state() == v1::STAGE_STATE_ACTIVE) {
      AddPart(DoneText(stage), &text);
      AddPart(RateText(stage.progress()), &text);
      AddPart(RestartText(stage), &text);
      if (stage.attempt_state() != v1::ATTEMPT_STATE_RUNNING) AddPart(stage.reason(), &text);
    } else {
      text = LiveText(stage, wall);
    }
    lines.push_back(Printable(absl::StrCat(stage.name(), ": ", Word(stage.state()), text.empty() ? "" : ", ", text)));
  }
  return lines;
}

std::string FollowView::Summary(absl::Time wall) const {
  const absl::Time end = job_.has_ended_at() ? FromProto(job_.ended_at()) : wall;
  std::string head = absl::StrCat("job ", job_.job_id(), " ", Word(job_.state()));
  if (job_.has_submitted_at()) absl::StrAppend(&head, " after ", HumanDuration(end - FromProto(job_.submitted_at())));
  if (!job_.reason().empty() && job_.state() != v1::JOB_STATE_SUCCEEDED) absl::StrAppend(&head, ": ", job_.reason());
  std::string text = absl::StrCat("\n", Printable(head), "\n\n");
  Table table({"STAGE", "STATE", "TIME", "RESTARTS", "ARTIFACT"});
  for (const v1::Stage& stage : job_.stages()) {
    table.Add({stage.name(), Word(stage.state()), DurationText(stage, wall),
               stage.restarts() > 0 ? absl::StrCat(stage.restarts()) : "", stage.artifact_folder()});
  }
  text += table.ToString(0);  // folders are there to be copied: never cut
  for (const v1::Stage& stage : job_.stages()) {
    if (stage.state() != v1::STAGE_STATE_FAILED) continue;
    absl::StrAppend(&text, "\n", Printable(absl::StrCat(stage.name(), " failed: ", stage.reason())));
  }
  if (text.back() != '\n') text += '\n';
  const std::vector<std::string> next = NextCommands(job_);
  if (!next.empty()) text += "\nnext:\n";
  for (const std::string& command : next) absl::StrAppend(&text, "  ", Printable(command), "\n");
  return text;
}

}  // namespace vlm::cli
