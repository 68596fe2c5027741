// A disk of a few megabytes in memory, where this process may mount one: for tests of what happens when it is full.
#ifndef VLM_TESTS_SUPPORT_SMALL_DISK_H_
#define VLM_TESTS_SUPPORT_SMALL_DISK_H_

#include <sys/mount.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

namespace vlm {

// Not thread-safe. Unmounted with the object; nothing may be open on it then.
class SmallDisk {
 public:
  // Mounts over the folder `path`, which is made when missing.
  SmallDisk(std::string path, uint64_t bytes) : path_(std::move(path)) {
    umount2(path_.c_str(), MNT_DETACH);  // of a run that was killed
    std::filesystem::create_directories(path_);
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, Size(bytes).c_str()) == 0;
    if (!mounted_) why_not_ = std::strerror(errno);
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  const std::string& why_not() const { return why_not_; }
  // While in use; what is on it stays.
  bool Resize(uint64_t bytes) { return mount(nullptr, path_.c_str(), nullptr, MS_REMOUNT, Size(bytes).c_str()) == 0; }

 private:
  static std::string Size(uint64_t bytes) { return "size=" + std::to_string(bytes); }

  const std::string path_;
  bool mounted_ = false;
  std::string why_not_;
};

}  // namespace vlm

#endif  // VLM_TESTS_SUPPORT_SMALL_DISK_H_
