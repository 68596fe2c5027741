#include "cli/follow.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/job_watch.h"

namespace vlm::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);        // between redraws, at most
constexpr absl::Duration kRefreshMin = absl::Milliseconds(200);  // between looks at a job that changes
constexpr absl::Duration kRefreshMax = absl::Seconds(2);         // between looks at a job that does not

class Watcher {
 public:
  Watcher(const Context& context, std::string job_id, FollowView* view)
      : context_(context), job_id_(std::move(job_id)), view_(view), watch_(context.service, job_id_) {}

  // One turn: waits for news up to kTick, takes them in. True when the job has ended.
  absl::StatusOr<bool> Turn() {
    const WatchItem item = watch_.Next(kTick);
    switch (item.kind) {
      case WatchItem::Kind::kFailed:
        return item.status;
      case WatchItem::Kind::kAway:
        SetAway(true);
        break;
      case WatchItem::Kind::kProgress:
        SetAway(false);
        view_->SetProgress(item.stage, item.progress);
        break;
      case WatchItem::Kind::kEvent:
        changed_ = true;
        [[fallthrough]];
      case WatchItem::Kind::kHeartbeat:
        SetAway(false);
        break;
      case WatchItem::Kind::kNothing:
        break;
    }
    const absl::Duration now = context_.clock->Monotonic();
    if (away_since_ && now - *away_since_ > kAwayMax) {
      return absl::UnavailableError("the coordinator did not come back; the job goes on when it does: " + job_id_);
    }
    if (now - looked_at_ >= (changed_ ? kRefreshMin : kRefreshMax)) VLM_RETURN_IF_ERROR(Look(now));
    return IsFinal(view_->job().state());
  }

 private:
  absl::Status Look(absl::Duration now) {
    looked_at_ = now;
    absl::StatusOr<v1::Job> job = context_.service->GetJob(job_id_, kNoPatience);
    if (job.ok()) {
      SetAway(false);  // a coordinator that only takes no more watchers is asked instead
      changed_ = false;
      view_->SetJob(*std::move(job));
      return absl::OkStatus();
    }
    if (ExitCodeOf(job.status()) != ExitCode::kUnreachable) return job.status();
    SetAway(true);
    return absl::OkStatus();
  }

  void SetAway(bool away) {
    if (away != away_since_.has_value()) {
      away_since_ = away ? std::optional(context_.clock->Monotonic()) : std::nullopt;
      changed_ = true;
    }
    view_->SetAway(away);
  }

  const Context& context_;
  const std::string job_id_;
  FollowView* const view_;
  JobWatch watch_;
  bool changed_ = true;
  std::optional<absl::Duration> away_since_;
  absl::Duration looked_at_ = -absl::InfiniteDuration();
};

}  // namespace

absl::StatusOr<WatchEnd> WatchToEnd(const Context& context, const std::string& job_id, absl::Duration timeout,
                                    FollowView* view, const std::function<void()>& draw) {
  const Interrupt::Listener listener(context.interrupt);
  const absl::Duration end = context.clock->Monotonic() + timeout;
  Watcher watcher(context, job_id, view);
  while (!context.interrupt->raised()) {
    VLM_ASSIGN_OR_RETURN(const bool ended, watcher.Turn());
    draw();
    if (ended) return WatchEnd::kEnded;
    if (context.clock->Monotonic() >= end) return WatchEnd::kTimedOut;
  }
  return WatchEnd::kInterrupted;
}

VerbResult FollowJob(const Context& context, const std::string& job_id) {
  FollowView view;
  v1::Job submitted;  // all that is known until the coordinator tells more
  submitted.set_job_id(job_id);
  submitted.set_state(v1::JOB_STATE_PENDING);
  view.SetJob(std::move(submitted));
  absl::Duration drawn_at = -absl::InfiniteDuration();
  const auto draw = [&] {
    const absl::Duration now = context.clock->Monotonic();
    if (!context.terminal->interactive()) {
      for (const std::string& line : view.TakePlainLines(context.clock->Wall(), now)) context.terminal->Line(line);
    } else if (now - drawn_at >= kTick || IsFinal(view.job().state())) {
      context.terminal->Redraw(view.LiveLines(context.clock->Wall()));
      drawn_at = now;
    }
  };
  const absl::StatusOr<WatchEnd> end = WatchToEnd(context, job_id, absl::InfiniteDuration(), &view, draw);
  context.terminal->EndLive();
  if (!end.ok()) return end.status();
  if (*end == WatchEnd::kInterrupted) {
    context.terminal->Line(absl::StrCat("\nleft; the job goes on. See it with `vlmctl get ", job_id,
                                        "`, stop it with `vlmctl cancel ", job_id, "`"));
    return ExitCode::kInterrupted;
  }
  context.terminal->Write(view.Summary(context.clock->Wall()));
  return ExitCodeOfJob(view.job().state());
}

}  // namespace vlm::cli
