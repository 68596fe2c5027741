#include "data/tar/tar_header.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::data {
namespace {

absl::Status BadName(std::string_view reason, std::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat("tar member name ", absl::string_view(reason.data(), reason.size()),
                                                 ": \"", absl::CHexEscape(absl::string_view(name.data(), name.size())),
                                                 "\""));
}

std::optional<uint64_t> Base256(std::span<const std::byte> bytes) {
  if (bytes[0] != std::byte{0x80}) return std::nullopt;  // 0xFF is a negative number
  uint64_t value = 0;
  for (const std::byte byte : bytes.subspan(1)) {
    if (value >> 55 != 0) return std::nullopt;
    value = value << 8 | static_cast<uint64_t>(byte);
  }
  return value;
}

}  // namespace

std::string_view TarText(const TarBlock& block, TarField field) {
  const std::string_view all(reinterpret_cast<const char*>(block.data()) + field.offset, field.size);
  return all.substr(0, std::min(all.find('\0'), all.size()));
}

std::optional<uint64_t> TarNumber(const TarBlock& block, TarField field) {
  const auto bytes = std::span(block).subspan(field.offset, field.size);
  if ((bytes[0] & std::byte{0x80}) != std::byte{0}) return Base256(bytes);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  uint64_t value = 0;
  size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '7') {
    value = value << 3 | static_cast<uint64_t>(text[digits++] - '0');  // at most 12 digits: 36 bits
  }
  // After the digits only blanks and NUL may follow.
  if (text.substr(digits).find_first_not_of(std::string_view(" \0", 2)) != std::string_view::npos) return std::nullopt;
  return value;
}

void SetTarNumber(TarBlock* block, TarField field, uint64_t value) {
  for (size_t i = field.size - 1; i-- > 0; value >>= 3) {
    (*block)[field.offset + i] = static_cast<std::byte>('0' + (value & 7));
  }
  (*block)[field.offset + field.size - 1] = std::byte{0};
  VLM_CHECK(value == 0, "number does not fit its tar field");
}

void SetTarText(TarBlock* block, TarField field, std::string_view text) {
  VLM_CHECK(text.size() <= field.size, "text does not fit its tar field");
  for (size_t i = 0; i < text.size(); ++i) (*block)[field.offset + i] = static_cast<std::byte>(text[i]);
}

uint64_t TarChecksumOf(const TarBlock& block) {
  uint64_t sum = 0;
  for (size_t i = 0; i < block.size(); ++i) {
    const bool own = i >= kTarChecksum.offset && i < kTarChecksum.offset + kTarChecksum.size;
    sum += own ? uint64_t{' '} : static_cast<uint64_t>(block[i]);
  }
  return sum;
}

bool IsZeroBlock(const TarBlock& block) {
  return std::all_of(block.begin(), block.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

absl::StatusOr<std::string> CheckTarName(std::string_view name) {
  const std::string_view whole = name;
  while (name.starts_with("./")) name.remove_prefix(2);
  if (name.empty()) return BadName("is empty", whole);
  if (name.front() == '/') return BadName("is absolute; archive relative names", whole);
  for (const char letter : name) {
    const auto code = static_cast<unsigned char>(letter);
    if (code < 0x20 || code == 0x7F || letter == '\\') {
      return BadName("holds a control character or backslash; rename the file", whole);
    }
  }
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") {
      return BadName("has an empty, \".\" or \"..\" part; archive plain relative names", whole);
    }
    begin = end + 1;
  }
  return std::string(name);
}

}  // namespace vlm::data
