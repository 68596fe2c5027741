// The part that a target needs beside libFuzzer's own main: `--write-seeds=FOLDER` writes its seeds as files.
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/file_system.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view kFlag = "--write-seeds=";
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    if (!argument.starts_with(kFlag)) continue;
    const std::string folder(argument.substr(kFlag.size()));
    int number = 0;
    for (const std::string& seed : vlm::fuzz::Seeds()) {
      const absl::Status written =
          vlm::WriteFileDurably(vlm::PosixFileSystem(), folder + "/seed-" + std::to_string(number++), seed);
      VLM_CHECK(written.ok(), written.ToString());
    }
  }
  return 0;
}
