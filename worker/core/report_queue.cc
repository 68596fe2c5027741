#include "worker/core/report_queue.h"

#include <utility>

namespace vlm::worker {

void ReportQueue::Add(std::string subject, v1::SessionRequest report) {
  std::erase_if(reports_, [&](const Report& old) { return old.subject == subject; });
  reports_.push_back({.subject = std::move(subject), .message = std::move(report)});
}

void ReportQueue::Acknowledge(uint64_t sequence) {
  std::erase_if(reports_, [&](const Report& report) { return report.sequence != 0 && report.sequence <= sequence; });
}

void ReportQueue::Rewind() {
  for (Report& report : reports_) report.sequence = 0;
}

void ReportQueue::Drop(const std::string& subject_prefix) {
  std::erase_if(reports_, [&](const Report& report) { return report.subject.starts_with(subject_prefix); });
}

std::vector<v1::SessionRequest> ReportQueue::TakeUnsent(uint64_t* sequence) {
  std::vector<v1::SessionRequest> unsent;
  for (Report& report : reports_) {
    if (report.sequence != 0) continue;
    report.sequence = ++*sequence;
    report.message.set_sequence(report.sequence);
    unsent.push_back(report.message);
  }
  return unsent;
}

}  // namespace vlm::worker
