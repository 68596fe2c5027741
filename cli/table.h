// Aligned columns of text.
#ifndef VLM_CLI_TABLE_H_
#define VLM_CLI_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace vlm::cli {

// Columns of a terminal that `text` takes: its characters, as long as they are neither wide nor combining.
size_t DisplayWidth(std::string_view text);
// `text` as a screen may get it: control characters (C0 with line breaks and tabs, DEL, C1) become spaces, bytes that
// belong to no character of UTF-8 "?". What others wrote, a reason or a name, goes through it.
std::string Printable(std::string_view text);
// At most `columns` wide, "..." at the cut, and Printable.
std::string FitTo(std::string_view text, size_t columns);
std::string PadTo(std::string text, size_t columns);

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  // As many cells as the header has. An empty cell shows as "-".
  void Add(std::vector<std::string> row);
  bool empty() const { return rows_.size() == 1; }
  // Two spaces between columns, none behind the last. `columns` > 0: the last column is cut so that a line fits.
  std::string ToString(int columns) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace vlm::cli

#endif  // VLM_CLI_TABLE_H_
