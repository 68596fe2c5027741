#include "cli/table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/utf8.h"

namespace vlm::cli {
namespace {

constexpr size_t kGap = 2;
constexpr size_t kLastColumnMin = 10;  // a narrow terminal wraps rather than hides the last column

// Of one whole character. C1, U+0080 to U+009F, is what a terminal takes for ESC and a letter.
bool IsControl(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  return first < 0x20 || first == 0x7F || (first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0);
}

bool StartsCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

}  // namespace

size_t DisplayWidth(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), StartsCharacter));
}

std::string Printable(std::string_view text) {
  std::string printable;
  while (!text.empty()) {
    const size_t bytes = Utf8CharacterBytes(text);
    const std::string_view character = text.substr(0, bytes);
    printable += bytes == 0 ? std::string_view("?") : IsControl(character) ? std::string_view(" ") : character;
    text.remove_prefix(bytes == 0 ? 1 : bytes);
  }
  return printable;
}

std::string FitTo(std::string_view text, size_t columns) {
  std::string clean = Printable(text);
  if (DisplayWidth(clean) <= columns) return clean;
  const size_t kept = columns > 3 ? columns - 3 : columns;
  size_t characters = 0, end = 0;
  while (end < clean.size()) {
    if (StartsCharacter(clean[end]) && ++characters > kept) break;
    ++end;
  }
  clean.resize(end);
  if (columns > 3) clean += "...";
  return clean;
}

std::string PadTo(std::string text, size_t columns) {
  const size_t width = DisplayWidth(text);
  if (width < columns) text.append(columns - width, ' ');
  return text;
}

void Table::Add(std::vector<std::string> row) {
  VLM_CHECK(row.size() == rows_[0].size(), "a row has another number of cells than the header");
  for (std::string& cell : row) cell = cell.empty() ? "-" : FitTo(cell, SIZE_MAX);
  rows_.push_back(std::move(row));
}

std::string Table::ToString(int columns) const {
  const size_t count = rows_[0].size();
  std::vector<size_t> widths(count, 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < count; ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  size_t before_last = 0;
  for (size_t i = 0; i + 1 < count; ++i) before_last += widths[i] + kGap;
  std::string text;
  for (const auto& row : rows_) {
    for (size_t i = 0; i + 1 < count; ++i) text += PadTo(row[i], widths[i] + kGap);
    size_t room = SIZE_MAX;
    if (columns > 0) {
      room = std::max(kLastColumnMin, static_cast<size_t>(columns) - std::min<size_t>(before_last, columns));
    }
    text += FitTo(row.back(), room);
    text += '\n';
  }
  return text;
}

}  // namespace vlm::cli
