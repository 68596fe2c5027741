// The printable stand-ins of bytes in vocabularies of byte-level tokenizers (GPT-2's bytes_to_unicode):
// bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for the code points of the same value, the other 68, in
// ascending order, for U+0100 onwards. So every entry is printable UTF-8 without spaces.
#ifndef VLM_DATA_TOKENIZER_BYTE_ALPHABET_H_
#define VLM_DATA_TOKENIZER_BYTE_ALPHABET_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vlm::data {

// The stand-in of one byte, UTF-8.
std::string_view AlphabetCharacter(uint8_t byte);

// The 256 bytes in ascending order of their stand-ins' code points: the order of a trained vocabulary.
const std::array<uint8_t, 256>& BytesInAlphabetOrder();

// The bytes that `entry` stands for; nullopt when a character of it is not in the alphabet.
std::optional<std::string> BytesOfEntry(std::string_view entry);

// Whether `text` is well-formed UTF-8.
bool IsUtf8(std::string_view text);

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_BYTE_ALPHABET_H_
