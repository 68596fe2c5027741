// What the coordinator keeps in its state folder beside its databases.
#ifndef VLM_COORDINATOR_SERVER_FILES_H_
#define VLM_COORDINATOR_SERVER_FILES_H_

#include <string>

#include "base/file_system.h"
#include "base/status.h"
#include "store/meta_store.h"

namespace vlm::coordinator {

// Rows of the shell itself: "uuid" -> 16 random bytes, the store's identity.
inline constexpr char kShellFamily[] = "shell";

struct ServerAddresses {
  std::string address;
  std::string metrics_address;
};

// Makes the folder where it is missing and closes it to other users. INVALID_ARGUMENT for a path that is not
// absolute.
absl::Status PrepareStateDir(FileSystem* files, const std::string& state_dir);

// coordinator.json. NOT_FOUND when there is none; INVALID_ARGUMENT when it does not parse.
absl::StatusOr<ServerAddresses> ReadServerFile(FileSystem* files, const std::string& path);
absl::Status WriteServerFile(FileSystem* files, const std::string& path, const std::string& state_dir,
                             const ServerAddresses& addresses, const std::string& version);

// The store's identity, made on its first opening. Errors of the store.
absl::StatusOr<std::string> StoreUuid(store::MetaStore* store);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_SERVER_FILES_H_
