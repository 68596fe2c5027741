#include "cli/terminal.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "cli/table.h"

namespace vlm::cli {
namespace {

std::string PrintableLines(std::string_view text) {
  std::string lines;
  for (size_t end = 0; end != std::string_view::npos;) {
    end = text.find('\n');
    lines += Printable(text.substr(0, end)) + "\n";
    if (end != std::string_view::npos) text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace

void Terminal::ClearLive() {
  if (live_lines_ == 0) return;
  options_.out(absl::StrCat("\x1b[", live_lines_, "A\r\x1b[J"));  // up to the block's first line, clear below
  live_lines_ = 0;
}

void Terminal::Write(std::string_view text) {
  if (text.empty()) return;
  const bool live = live_lines_ > 0;
  ClearLive();
  options_.out(text);
  if (live) Redraw(drawn_);
}

void Terminal::Line(std::string_view text) { Write(PrintableLines(text)); }

void Terminal::Error(std::string_view text) {
  const bool live = live_lines_ > 0;
  ClearLive();
  options_.error(PrintableLines(text));
  if (live) Redraw(drawn_);
}

void Terminal::Redraw(const std::vector<std::string>& lines) {
  VLM_CHECK(options_.interactive, "a block can be redrawn on a terminal only");
  // One column stays free: some terminals wrap a line that fills the last one.
  const auto width = static_cast<size_t>(std::max(2, options_.columns()) - 1);
  std::string text;
  if (live_lines_ > 0) absl::StrAppend(&text, "\x1b[", live_lines_, "A\r");
  for (const std::string& line : lines) absl::StrAppend(&text, FitTo(line, width), "\x1b[K\n");
  text += "\x1b[J";  // what a longer block left behind
  options_.out(text);
  live_lines_ = lines.size();
  drawn_ = lines;
}

}  // namespace vlm::cli
