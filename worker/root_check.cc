#include "worker/root_check.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace vlm::worker {
namespace {

constexpr size_t kNonceBytesMax = 256;

bool IsPlain(std::string_view path) {
  if (path.empty() || path.front() != '/') return false;
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view part = path.substr(0, path.find('/'));
    if (part == "." || part == "..") return false;
    path.remove_prefix(part.size());
  }
  return true;
}

std::string_view WithoutSlash(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path;
}

}  // namespace

bool IsBelow(const std::vector<std::string>& roots, std::string_view path) {
  path = WithoutSlash(path);
  if (!IsPlain(path)) return false;
  for (const std::string& allowed : roots) {
    const std::string_view root = WithoutSlash(allowed);
    if (root == "/" || path == root) return true;
    if (path.starts_with(root) && path[root.size()] == '/') return true;
  }
  return false;
}

absl::Status CheckRoot(const std::vector<std::string>& allowed_roots, const std::string& root,
                       const std::string& nonce_file, std::string_view nonce) {
  if (!IsBelow(allowed_roots, root)) {
    return absl::PermissionDeniedError("artifact root is not allowed on this worker; start it with --artifact-root " +
                                       root);
  }
  const int folder = open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return ErrnoStatus(errno, "open artifact root " + root);
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  const int file = static_cast<int>(syscall(SYS_openat2, folder, nonce_file.c_str(), &how, sizeof(how)));
  const int open_error = errno;
  close(folder);
  if (file < 0) return ErrnoStatus(open_error, "open nonce file " + root + "/" + nonce_file);
  std::array<char, kNonceBytesMax + 1> buffer;
  const ssize_t bytes = read(file, buffer.data(), buffer.size());
  const int read_error = errno;
  close(file);
  if (bytes < 0) return ErrnoStatus(read_error, "read nonce file " + root + "/" + nonce_file);
  if (std::string_view(buffer.data(), static_cast<size_t>(bytes)) != nonce) {
    return absl::FailedPreconditionError("the worker's folder is not the coordinator's, though the path is the same: " +
                                         root);
  }
  return absl::OkStatus();
}

}  // namespace vlm::worker
