// Structured log lines on standard error: time (UTC), level, program, message, then key=value fields.
//
//   2026-11-21T12:44:47.123Z info vlm-coordinator serving address=127.0.0.1:7000
//
// The message is fixed text; what varies stands in fields, so that lines can be found and counted. Never a token
// or a secret. Thread-safe.
#ifndef VLM_TELEMETRY_LOG_H_
#define VLM_TELEMETRY_LOG_H_

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::telemetry {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning" or "error"; INVALID_ARGUMENT, naming the word, for another.
absl::StatusOr<LogLevel> ParseLogLevel(std::string_view word);

struct LogField {
  std::string_view key;
  std::string value;
};

// Names the program in every line and drops lines below `least`. Before it is called, lines carry "vlm" and
// nothing below kInfo is written.
void StartLog(const std::string& program, LogLevel least);

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

// The line after level and program: values with spaces, quotes or control characters are quoted and escaped.
std::string FormatLogLine(std::string_view message, std::initializer_list<LogField> fields);

}  // namespace vlm::telemetry

#endif  // VLM_TELEMETRY_LOG_H_
