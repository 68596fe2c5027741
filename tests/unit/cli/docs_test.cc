// docs/vlmctl.md holds the tables that the code has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_system.h"
#include "cli/command_line.h"
#include "cli/exit_code.h"

namespace vlm::cli {
namespace {

TEST(DocsTest, TablesAreThoseOfTheCode) {
  const absl::StatusOr<std::string> page = ReadFile(PosixFileSystem(), VLM_SOURCE_DIR "/docs/vlmctl.md", 1 << 20);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_NE(page->find(ExitCodesMarkdown()), std::string::npos) << "docs/vlmctl.md must contain\n"
                                                                << ExitCodesMarkdown();
  EXPECT_NE(page->find(VerbsMarkdown()), std::string::npos) << "docs/vlmctl.md must contain\n" << VerbsMarkdown();
}

}  // namespace
}  // namespace vlm::cli
