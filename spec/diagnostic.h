// What is wrong with a job file, and where.
#ifndef VLM_SPEC_DIAGNOSTIC_H_
#define VLM_SPEC_DIAGNOSTIC_H_

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace vlm::spec {

// A place in a source. Line and column count from 1, columns in characters; 0: no place (a default).
struct Position {
  std::string source;  // file name as given, "--set", or empty for a default
  int32_t line = 0;
  int32_t column = 0;
  std::string ToString() const;  // "job.yaml:3:7", "--set", "default"
  friend bool operator==(const Position&, const Position&) = default;
};

struct Diagnostic {
  std::string path;  // "spec.stages[sft].train.lr"; empty: the file itself
  Position at;
  std::string message;           // what is wrong, values last
  std::string suggestion;        // what to write instead; may be empty
  std::string ToString() const;  // "job.yaml:3:7: spec.x: message; suggestion"
};

// At most kDiagnosticsMax are kept, in order of discovery; the rest are counted, and ToString says so.
inline constexpr int kDiagnosticsMax = 100;

class Diagnostics {
 public:
  void Add(Diagnostic diagnostic);
  bool empty() const { return kept_.empty(); }
  // No more are kept: a caller may save the work of making one.
  bool full() const { return kept_.size() >= kDiagnosticsMax; }
  int64_t count() const { return static_cast<int64_t>(kept_.size()) + dropped_; }
  // Sorted by source, line and column when a parse has ended.
  const std::vector<Diagnostic>& all() const { return kept_; }
  int64_t dropped() const { return dropped_; }
  void SortByPlace();
  std::string ToString() const;   // one line each
  absl::Status ToStatus() const;  // OK, or INVALID_ARGUMENT with ToString()

 private:
  std::vector<Diagnostic> kept_;
  int64_t dropped_ = 0;
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_DIAGNOSTIC_H_
