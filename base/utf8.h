// Text of others as valid UTF-8 within a limit: what does not parse as UTF-8 cannot travel in a message or stand in a
// row, and a text cut in the middle of a character does not parse.
#ifndef VLM_BASE_UTF8_H_
#define VLM_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vlm {

// Bytes of the character that `text` begins with; 0 when it begins with none: overlong forms, surrogates and numbers
// above U+10FFFF are none (Unicode 15, table 3-7), nor is one that is cut short.
inline size_t Utf8CharacterBytes(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t bytes = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < bytes) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (byte(0) == 0xE0 && byte(1) < 0xA0) || (byte(0) == 0xF0 && byte(1) < 0x90);
  const bool outside = (byte(0) == 0xED && byte(1) > 0x9F) || (byte(0) == 0xF4 && byte(1) > 0x8F);
  return overlong || outside ? 0 : bytes;
}

// The beginning of `text`, at most `bytes_max`, cut between characters; each byte that belongs to none becomes '?'.
// Text that is valid and fits comes back unchanged.
inline std::string CutUtf8(std::string_view text, size_t bytes_max) {
  std::string cut;
  while (!text.empty()) {
    const size_t bytes = Utf8CharacterBytes(text);
    if (cut.size() + (bytes == 0 ? 1 : bytes) > bytes_max) break;
    cut += bytes == 0 ? std::string_view("?") : text.substr(0, bytes);
    text.remove_prefix(bytes == 0 ? 1 : bytes);
  }
  return cut;
}

}  // namespace vlm

#endif  // VLM_BASE_UTF8_H_
