// Files in memory that lose what a real disk may lose: everything that was not synced.
//
// The model follows ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 14): a file's bytes are
// durable after Sync of the file, a name after SyncDirectory of the folder that holds it (a new folder needs its
// parent synced too); what was not synced may survive a crash in any subset, a rename whole or not at all.
#ifndef VLM_BASE_SIMULATED_FILE_SYSTEM_H_
#define VLM_BASE_SIMULATED_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/hooked_file_system.h"
#include "base/random.h"

namespace vlm {

// Thread-safe; same calls and same seed give the same state. The root "/" exists. Paths are absolute, or
// relative to "/". Symbolic links do not exist here.
class SimulatedFileSystem final : public FileSystem {
 public:
  enum class Survival {
    kNothing,  // a crash keeps exactly what was synced
    kRandom,   // and a random subset of the rest: names one by one, bytes as a prefix whose end may be zeros
  };

  explicit SimulatedFileSystem(RngKey seed = {});
  ~SimulatedFileSystem() override;

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Link(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::Status MakeDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  absl::StatusOr<FileInfo> Stat(const std::string& path) override;
  absl::StatusOr<std::string> Canonical(const std::string& path) override;
  absl::StatusOr<uint64_t> FreeBytes(const std::string& path) override;

  // Called before every operation; an error fails it. A failed kSync loses the file's unsynced bytes for good:
  // a later Sync answers OK and still makes nothing durable, as Linux does. Set before other threads start.
  void SetHook(FileHook hook);
  // Bytes the disk holds in all; writing or reserving more is RESOURCE_EXHAUSTED.
  void SetCapacity(uint64_t bytes);
  // Every changing operation after the next `operations` ones fails with ABORTED, until Crash().
  void StopAfter(uint64_t operations);
  // Number of changing operations so far (create, append, sync, rename, link, remove, make, sync folder).
  uint64_t operations() const;
  // Names changed and bytes appended that a power loss now may take back, in the order in which they were made.
  uint64_t unsynced_operations() const;
  // What the disk holds after a power loss now that keeps the first `kept` of those and loses the rest: a new machine
  // with the same seed and without hook. This one goes on.
  std::unique_ptr<SimulatedFileSystem> AfterPowerLoss(uint64_t kept) const;
  // Power loss and restart. Files still open for writing fail with ABORTED from here on.
  void Crash(Survival survival);
  // Rot: flips one bit of the durable and the visible bytes. NOT_FOUND, or OUT_OF_RANGE past the end.
  absl::Status FlipBit(const std::string& path, uint64_t bit);

  struct Disk;  // defined in the .cc

 private:
  explicit SimulatedFileSystem(std::shared_ptr<Disk> disk);
  const std::shared_ptr<Disk> disk_;  // shared with open files
};

}  // namespace vlm

#endif  // VLM_BASE_SIMULATED_FILE_SYSTEM_H_
