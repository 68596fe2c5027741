// The one way to a person's screen: lines, errors, and a block of lines redrawn in place.
#ifndef VLM_CLI_TERMINAL_H_
#define VLM_CLI_TERMINAL_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace vlm::cli {

struct TerminalOptions {
  // Each gets whole writes, in order. Standard output and standard error in a program, strings in tests.
  std::function<void(std::string_view)> out;
  std::function<void(std::string_view)> error;
  bool interactive = false;                          // standard output is a terminal: ANSI sequences are understood
  std::function<int()> columns = [] { return 80; };  // asked at every use: a window may change
};

// Not thread-safe.
class Terminal {
 public:
  explicit Terminal(TerminalOptions options) : options_(std::move(options)) {}
  // Leaves the live block as it was drawn last.
  ~Terminal() = default;

  bool interactive() const { return options_.interactive; }
  // Of a line; 0 when standard output is no terminal: nothing is cut then.
  int columns() const { return options_.interactive ? options_.columns() : 0; }

  // Text as it is, to standard output, above the live block.
  void Write(std::string_view text);
  // A line each, or more where `text` has line breaks; each Printable (cli/table.h).
  void Line(std::string_view text);
  void Error(std::string_view text);  // to standard error

  // Replaces the live block by these lines, each cut to the width. Requires interactive().
  void Redraw(const std::vector<std::string>& lines);
  // What stands there stays; the next Redraw starts below.
  void EndLive() { live_lines_ = 0; }

 private:
  void ClearLive();

  const TerminalOptions options_;
  size_t live_lines_ = 0;
  std::vector<std::string> drawn_;
};

}  // namespace vlm::cli

#endif  // VLM_CLI_TERMINAL_H_
