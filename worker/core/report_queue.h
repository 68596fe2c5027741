// Reports for the coordinator that are kept until it has acknowledged them.
#ifndef VLM_WORKER_CORE_REPORT_QUEUE_H_
#define VLM_WORKER_CORE_REPORT_QUEUE_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "worker/core/worker.h"

namespace vlm::worker {

// A newer report replaces an older one of the same subject (rank and kind, or root), so the queue is bounded by
// the ranks held and the roots asked for. Not thread-safe.
class ReportQueue {
 public:
  void Add(std::string subject, v1::SessionRequest report);
  // Forgets what the coordinator has handled.
  void Acknowledge(uint64_t sequence);
  // The connection is gone: everything left is to be sent again.
  void Rewind();
  // Forgets reports about a rank that is no longer held.
  void Drop(const std::string& subject_prefix);
  // The reports not sent on this connection, in order of arrival; `*sequence` is raised once for each.
  std::vector<v1::SessionRequest> TakeUnsent(uint64_t* sequence);
  size_t size() const { return reports_.size(); }

 private:
  struct Report {
    std::string subject;
    v1::SessionRequest message;
    uint64_t sequence = 0;  // 0: not sent on this connection
  };
  std::deque<Report> reports_;
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_CORE_REPORT_QUEUE_H_
