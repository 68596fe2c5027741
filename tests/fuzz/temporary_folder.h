// A folder of the real file system for one input, gone with it.
#ifndef VLM_TESTS_FUZZ_TEMPORARY_FOLDER_H_
#define VLM_TESTS_FUZZ_TEMPORARY_FOLDER_H_

#include <stdlib.h>

#include <string>

#include "base/check.h"
#include "base/file_system.h"

namespace vlm::fuzz {

class TemporaryFolder {
 public:
  TemporaryFolder() : path_("/tmp/vlm-fuzz-XXXXXX") {
    VLM_CHECK(mkdtemp(path_.data()) != nullptr, "no folder in /tmp");
  }
  ~TemporaryFolder() { RemoveTree(PosixFileSystem(), path_).IgnoreError(); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_TEMPORARY_FOLDER_H_
