#include "base/crash_point.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file_system.h"
#include "base/mutex.h"

namespace vlm {
namespace {

constexpr uint64_t kFileBytesMax = 64;

struct Points {
  std::string folder;
  Mutex mutex;
  std::map<std::string, int> passed ABSL_GUARDED_BY(mutex);  // while the point's file was there
};

// Never destroyed: threads pass points until the process is gone.
Points& ThePoints() {
  static Points* const points = new Points;
  return *points;
}

void Act(const std::string& action, const char* name) {
  std::fprintf(stderr, "crash point %s: %s\n", name, action.c_str());
  if (action == "kill") {
    kill(getpid(), SIGKILL);
  } else if (action == "freeze") {
    raise(SIGSTOP);  // to this thread, which therefore does not take another step
    return;
  } else {
    VLM_CHECK(action == "hang", absl::StrCat("crash point knows kill, freeze and hang, not: ", action));
  }
  while (true) pause();
}

}  // namespace

namespace crash_point_internal {

std::atomic<bool> armed{false};

void Reach(const char* name) {
  Points& points = ThePoints();
  const std::string path = absl::StrCat(points.folder, "/", name);
  const absl::StatusOr<std::string> text = ReadFile(PosixFileSystem(), path, kFileBytesMax);
  if (!text.ok()) return;  // not set
  std::istringstream words(*text);
  std::string action;
  int occurrence = 1;
  words >> action >> occurrence;
  {
    MutexLock lock(&points.mutex);
    if (++points.passed[name] < occurrence) return;
    points.passed.erase(name);
  }
  const std::string reached = absl::StrCat(path, ".reached.", getpid());
  if (PosixFileSystem()->Rename(path, reached).ok()) Act(action, name);
}

}  // namespace crash_point_internal

void ArmCrashPoints(const char* folder) {
  if (folder == nullptr || *folder == '\0') return;
  ThePoints().folder = folder;
  std::fprintf(stderr, "crash points are looked for in %s\n", folder);
  crash_point_internal::armed.store(true, std::memory_order_relaxed);
}

}  // namespace vlm
