#include "worker/device_probe.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "base/file_system.h"

namespace vlm::worker {
namespace {

// The value of the line "<key> <value>" or "<key>: <value>".
std::string FindValue(std::istream* lines, const std::string& key) {
  std::string line;
  while (std::getline(*lines, line)) {
    if (!line.starts_with(key)) continue;
    const size_t start = line.find_first_not_of(": \t", key.size());
    if (start == std::string::npos || start == key.size()) continue;  // a longer key
    return line.substr(start, line.find_last_not_of(" \t") + 1 - start);
  }
  return "";
}

uint64_t ToNumber(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 10); }

std::string CgroupEventsPath() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("0::")) return "/sys/fs/cgroup" + line.substr(3) + "/memory.events";
  }
  return "";
}

}  // namespace

std::vector<v1::Device> CpuSlots(int slots, int threads) {
  std::vector<v1::Device> devices(static_cast<size_t>(slots));
  for (int i = 0; i < slots; ++i) {
    devices[static_cast<size_t>(i)].set_kind(v1::DEVICE_KIND_CPU_SLOT);
    devices[static_cast<size_t>(i)].set_index(i);
    devices[static_cast<size_t>(i)].set_threads(threads);
  }
  return devices;
}

std::vector<v1::Device> ProbeGpus(const std::string& proc_root, int threads) {
  std::vector<v1::Device> devices;
  const absl::StatusOr<std::vector<std::string>> names = PosixFileSystem()->List(proc_root + "/gpus");
  if (!names.ok()) return devices;
  for (const std::string& name : *names) {
    std::ifstream file(proc_root + "/gpus/" + name + "/information");
    const std::string uuid = FindValue(&file, "GPU UUID");
    if (uuid.empty()) continue;
    v1::Device device;
    device.set_kind(v1::DEVICE_KIND_CUDA);
    device.set_index(static_cast<int>(devices.size()));
    device.set_uuid(uuid);
    device.set_threads(threads);
    devices.push_back(device);
  }
  return devices;
}

absl::StatusOr<std::unique_ptr<DeviceLocks>> DeviceLocks::Take(const std::string& folder,
                                                               const std::vector<v1::Device>& devices) {
  std::unique_ptr<DeviceLocks> locks(new DeviceLocks);
  for (const v1::Device& device : devices) {
    if (device.kind() != v1::DEVICE_KIND_CUDA) continue;
    const std::string path = folder + "/vlm-gpu-" + device.uuid();
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return ErrnoStatus(errno, "open device lock " + path);
    locks->files_.push_back(file);
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
      return absl::AlreadyExistsError("another worker of this machine offers GPU " + device.uuid() + " (" + path + ")");
    }
  }
  return locks;
}

DeviceLocks::~DeviceLocks() {
  for (const int file : files_) close(file);
}

uint64_t ReadMemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes) : 0;
}

uint64_t ReadOutOfMemoryKills(const std::string& memory_events) {
  std::ifstream cgroup(memory_events.empty() ? CgroupEventsPath() : memory_events);
  if (cgroup || !memory_events.empty()) return ToNumber(FindValue(&cgroup, "oom_kill"));
  std::ifstream machine("/proc/vmstat");
  return machine ? ToNumber(FindValue(&machine, "oom_kill")) : 0;
}

}  // namespace vlm::worker
