#include "telemetry/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace vlm::telemetry {
namespace {

constexpr size_t kFieldBytesMax = 4096;  // longer values are cut: a line stays readable

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger> MakeLogger(const std::string& program, LogLevel least) {
  auto logger = std::make_shared<spdlog::logger>(program, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %n %v", spdlog::pattern_time_type::utc);
  logger->set_level(ToSpdlog(least));
  logger->flush_on(spdlog::level::debug);
  return logger;
}

struct Sink {
  Mutex mutex;
  std::shared_ptr<spdlog::logger> logger ABSL_GUARDED_BY(mutex) = MakeLogger("vlm", LogLevel::kInfo);
};

// Never destroyed: threads may log while the process ends.
Sink& TheSink() {
  static Sink* const sink = new Sink;
  return *sink;
}

bool NeedsQuotes(std::string_view value) {
  return value.empty() || std::any_of(value.begin(), value.end(),
                                      [](char c) { return c <= ' ' || c == '"' || c == '\\' || c == '=' || c == 127; });
}

}  // namespace

absl::StatusOr<LogLevel> ParseLogLevel(std::string_view word) {
  if (word == "debug") return LogLevel::kDebug;
  if (word == "info") return LogLevel::kInfo;
  if (word == "warning") return LogLevel::kWarning;
  if (word == "error") return LogLevel::kError;
  return absl::InvalidArgumentError(
      absl::StrCat("no such log level; choose debug, info, warning or error: ", std::string(word)));
}

void StartLog(const std::string& program, LogLevel least) {
  Sink& sink = TheSink();
  MutexLock lock(&sink.mutex);
  sink.logger = MakeLogger(program, least);
}

std::string FormatLogLine(std::string_view message, std::initializer_list<LogField> fields) {
  std::string line(message);
  for (const LogField& field : fields) {
    const std::string value = field.value.substr(0, kFieldBytesMax);
    absl::StrAppend(&line, " ", std::string(field.key), "=");
    if (NeedsQuotes(value)) {
      absl::StrAppend(&line, "\"", absl::Utf8SafeCEscape(value), "\"");
    } else {
      line += value;
    }
  }
  return line;
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  Sink& sink = TheSink();
  std::shared_ptr<spdlog::logger> logger;
  {
    MutexLock lock(&sink.mutex);
    logger = sink.logger;
  }
  if (!logger->should_log(ToSpdlog(level))) return;
  logger->log(ToSpdlog(level), spdlog::string_view_t(FormatLogLine(message, fields)));
}

}  // namespace vlm::telemetry
