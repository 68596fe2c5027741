// Proof that the worker sees the same folder as the coordinator.
#ifndef VLM_WORKER_ROOT_CHECK_H_
#define VLM_WORKER_ROOT_CHECK_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::worker {

// True when `path` is one of `roots` or below one, by names: absolute, without "." and "..".
bool IsBelow(const std::vector<std::string>& roots, std::string_view path);

// Reads `nonce_file`, relative to `root` and never outside of it (openat2 with RESOLVE_BENEATH), and compares it.
// PERMISSION_DENIED for a root that is not allowed; NOT_FOUND and the like from the file; FAILED_PRECONDITION when
// the contents differ: another folder is mounted there.
absl::Status CheckRoot(const std::vector<std::string>& allowed_roots, const std::string& root,
                       const std::string& nonce_file, std::string_view nonce);

}  // namespace vlm::worker

#endif  // VLM_WORKER_ROOT_CHECK_H_
