// What a rank's end means: the one table from exit codes, signals and our own reasons to failure classes.
#ifndef VLM_WORKER_CORE_EXIT_CLASS_H_
#define VLM_WORKER_CORE_EXIT_CLASS_H_

#include <cstdint>
#include <string>

#include "vlm/v1/failure.pb.h"

namespace vlm::worker {

// Why the worker ended a rank on its own account.
enum class Ending {
  kNone,        // it did not
  kOrdered,     // Stop from the coordinator
  kSuperseded,  // not allowed by Welcome, or a newer fence of its stage arrived
  kOrphaned,    // no coordinator for the orphan grace
  kUnattached,  // it never said hello
  kFrozen,      // its beats stopped
  kShutdown,    // the worker itself was told to end
};

struct RankEnd {
  int exit_code = 0;  // when signal is 0
  int signal = 0;
  bool oom_killed = false;
  Ending ending = Ending::kNone;
};

// UNSPECIFIED for exit 0. A rank that we ended and that died of it is noise (PEER_LOST) when ordered or
// superseded, else carries the class of our reason; a class it names itself by its exit code stays.
v1::FailureClass Classify(const RankEnd& end);

// For people: "exit code 70 (crash)", "killed by signal 9 after its beats stopped".
std::string Describe(const RankEnd& end);

}  // namespace vlm::worker

#endif  // VLM_WORKER_CORE_EXIT_CLASS_H_
