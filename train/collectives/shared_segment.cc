#include "train/collectives/shared_segment.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace vlm::train {

absl::StatusOr<std::shared_ptr<SharedSegment>> SharedSegment::Exchange(int rank, const std::vector<UniqueFd>& sockets,
                                                                       size_t bytes, const Patience& patience) {
  std::shared_ptr<SharedSegment> segment(new SharedSegment(sockets.size(), bytes));
  UniqueFd mine(memfd_create("vlm-collective", MFD_CLOEXEC));
  if (mine.get() < 0 || ftruncate(mine.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(errno, absl::StrCat("make ", bytes, " bytes of shared memory"));
  }
  for (size_t peer = 0; peer < sockets.size(); ++peer) {
    if (static_cast<int>(peer) != rank) VLM_RETURN_IF_ERROR(SendDescriptor(sockets[peer].get(), mine.get(), patience));
  }
  for (size_t peer = 0; peer < sockets.size(); ++peer) {
    UniqueFd theirs;
    int fd = mine.get();
    if (static_cast<int>(peer) != rank) {
      VLM_ASSIGN_OR_RETURN(theirs, ReceiveDescriptor(sockets[peer].get(), patience));
      fd = theirs.get();
      struct stat info;
      if (fstat(fd, &info) != 0 || static_cast<size_t>(info.st_size) != bytes) {
        return absl::FailedPreconditionError(
            absl::StrCat("rank ", peer, " shares memory of ", info.st_size, " bytes, rank ", rank, " of ", bytes));
      }
    }
    void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("map the shared memory of rank ", peer));
    segment->mapped_[peer] = static_cast<std::byte*>(address);
  }
  return segment;
}

SharedSegment::~SharedSegment() {
  for (std::byte* const address : mapped_) {
    if (address != nullptr) munmap(address, bytes_);
  }
}

}  // namespace vlm::train
