// The decisions of the checkpoint service, without I/O: Handle(now, message) -> rows to store, effects, answers.
//
// The owner commits `mutations` durably (one synced batch) before it performs an effect or sends a reply; when
// the commit fails it ends the process. Effects are implied by the rows: Start() names again, after a restart,
// every effect that a stored state still wants, and each is idempotent.
#ifndef VLM_CHECKPOINT_CORE_CHECKPOINT_CORE_H_
#define VLM_CHECKPOINT_CORE_CHECKPOINT_CORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "base/key_value.h"
#include "base/status.h"
#include "checkpoint/core/catalog_keys.h"
#include "vlm/v1/checkpoint.pb.h"

namespace vlm::checkpoint {

using Request = std::variant<v1::OpenAttemptRequest, v1::BeginStepRequest, v1::AddPartRequest,
                             v1::CommitArtifactRequest, v1::GetStepRequest, v1::ListStepsRequest, v1::GetLatestRequest,
                             v1::DeleteStepRequest, v1::VerifyStepRequest>;
using Response = std::variant<v1::OpenAttemptResponse, v1::BeginStepResponse, v1::AddPartResponse,
                              v1::CommitArtifactResponse, v1::GetStepResponse, v1::ListStepsResponse,
                              v1::GetLatestResponse, v1::DeleteStepResponse, v1::VerifyStepResponse>;

struct Effect {
  enum class Kind {
    kPrepareRoot,     // `folder` is the root: allowed, and its CATALOG file made or ours
    kMakeFolder,      // with every parent under `root`; `bytes` must be free
    kCheckFiles,      // sizes and sums of `files` in `folder`
    kVerifyFiles,     // every byte, past the page cache
    kRemoveFolder,    // with its contents, durably
    kWriteCommitted,  // `contents` as COMMITTED.json; its failure is told, and the next start tries again
  };
  uint64_t id = 0;
  Kind kind = Kind::kPrepareRoot;
  std::string root;
  std::string folder;
  std::vector<v1::StepFile> files;
  uint64_t bytes = 0;
  std::string contents;
  bool first = false;    // of kVerifyFiles: a stage waits for it, it must not wait behind the others
  absl::Duration delay;  // before performing it: a retry
};

struct EffectResult {
  uint64_t id = 0;
  absl::Status status;  // could not look or act
  std::vector<v1::VerifyStepResponse::Damage> damages;
};

struct Reply {
  uint64_t call = 0;
  absl::StatusOr<Response> response;
};

// What happened, for logs, metrics and the simulation's invariants.
struct CatalogEvent {
  enum class Kind {
    kOpened,
    kBegun,
    kCommitted,
    kAborted,
    kDamaged,
    kVerified,
    kDeleting,
    kDeleted,
    kPublished,
    kNotDescribed  // its COMMITTED.json could not be written
  };
  Kind kind;
  StepKey step;  // kOpened: the fence with step 0
  std::string reason;
};

struct Outputs {
  std::vector<Mutation> mutations;
  std::vector<Effect> effects;
  std::vector<Reply> replies;
  std::vector<CatalogEvent> events;
};

constexpr int kWritingStepsMax = 2;  // a third save is skipped by its caller, training goes on
constexpr int kWorldMax = 65536;
constexpr int kFilesPerPartMax = 10'000;
constexpr int kAbortedStepsMax = 10'000;  // at one fence; then the attempt must end
constexpr size_t kCursorBytesMax = 64 << 10;

// Not thread-safe: an actor's state.
class CheckpointCore {
 public:
  CheckpointCore();
  ~CheckpointCore();

  // Before Start: every row of every family but meta. DATA_LOSS for one that does not parse.
  absl::Status AddRow(std::string_view family, std::string_view key, std::string_view value);
  // After all rows: DATA_LOSS when rows contradict each other, else the effects that stored states want.
  absl::StatusOr<Outputs> Start(absl::Time now);

  // `call` is the owner's number for the request; exactly one reply carries it, now or from a later Handle.
  Outputs Handle(absl::Time now, uint64_t call, const Request& request);
  Outputs Handle(absl::Time now, const EffectResult& result);

  // Every step of every stage, files included, by key.
  std::vector<v1::Step> Steps() const;
  // The lowest accepted fence; 0 for an unknown stage.
  uint64_t MinFence(std::string_view stage_uid) const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

// SHA-256 over a kind prefix and the sorted (path, bytes, file digest) of an artifact's files; hex.
std::string ArtifactDigest(std::string_view kind, std::vector<v1::StepFile> files);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CORE_CHECKPOINT_CORE_H_
