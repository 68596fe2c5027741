#include "data/tokenizer/byte_alphabet.h"

#include "data/tokenizer/code_point_class.h"

namespace vlm::data {
namespace {

constexpr uint32_t kFirstStandIn = 0x100;
constexpr uint32_t kStandIns = 68;

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<uint8_t, 256> order;
  std::array<int, kFirstStandIn + kStandIns> byte_of;  // by code point, -1 for none

  Alphabet() {
    byte_of.fill(-1);
    size_t printable = 0;
    uint32_t stand_in = kFirstStandIn;
    for (int byte = 0; byte < 256; ++byte) {
      const bool stands = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const uint32_t code_point = stands ? static_cast<uint32_t>(byte) : stand_in++;
      byte_of[code_point] = byte;
      if (code_point < 0x80) {
        characters[byte] = std::string(1, static_cast<char>(code_point));
      } else {
        characters[byte] = {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
      }
    }
    for (int byte : byte_of) {
      if (byte >= 0) order[printable++] = static_cast<uint8_t>(byte);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string_view AlphabetCharacter(uint8_t byte) { return TheAlphabet().characters[byte]; }

const std::array<uint8_t, 256>& BytesInAlphabetOrder() { return TheAlphabet().order; }

std::optional<std::string> BytesOfEntry(std::string_view entry) {
  const Alphabet& alphabet = TheAlphabet();
  std::string bytes;
  bytes.reserve(entry.size());
  for (size_t i = 0; i < entry.size(); ++i) {
    uint32_t code_point = static_cast<uint8_t>(entry[i]);
    if (code_point >= 0x80) {
      if (code_point < 0xC2 || code_point > 0xDF || i + 1 == entry.size()) return std::nullopt;
      const uint32_t second = static_cast<uint8_t>(entry[++i]);
      if ((second & 0xC0) != 0x80) return std::nullopt;
      code_point = (code_point & 0x1F) << 6 | (second & 0x3F);
    }
    if (code_point >= alphabet.byte_of.size() || alphabet.byte_of[code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet.byte_of[code_point]));
  }
  return bytes;
}

bool IsUtf8(std::string_view text) {
  const CodePointClasses& classes = CodePointClasses::Get();
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const uint8_t bytes = classes.Read(at, end).bytes;
    if (bytes == 1 && static_cast<uint8_t>(*at) >= 0x80) return false;
    at += bytes;
  }
  return true;
}

}  // namespace vlm::data
