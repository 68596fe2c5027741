// The 512-byte tar header (POSIX.1-2001 pax, "ustar Interchange Format"); nothing outside this folder includes it.
#ifndef VLM_DATA_TAR_TAR_HEADER_H_
#define VLM_DATA_TAR_TAR_HEADER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::data {

inline constexpr uint64_t kTarBlock = 512;
using TarBlock = std::array<std::byte, kTarBlock>;

inline constexpr uint64_t RoundUpToTarBlock(uint64_t bytes) { return (bytes + kTarBlock - 1) / kTarBlock * kTarBlock; }

struct TarField {
  size_t offset;
  size_t size;
};
inline constexpr TarField kTarName{0, 100}, kTarMode{100, 8}, kTarOwner{108, 8}, kTarGroup{116, 8}, kTarSize{124, 12},
    kTarTime{136, 12}, kTarChecksum{148, 8}, kTarType{156, 1}, kTarMagic{257, 8}, kTarDeviceMajor{329, 8},
    kTarDeviceMinor{337, 8}, kTarPrefix{345, 155};

// The bytes of a text field up to its first NUL.
std::string_view TarText(const TarBlock& block, TarField field);

// An octal field, or GNU's base-256 form; nothing when it is neither or exceeds 63 bits. Blank is 0.
std::optional<uint64_t> TarNumber(const TarBlock& block, TarField field);

// Writes `value` as octal digits with a closing NUL. Requires that it fits.
void SetTarNumber(TarBlock* block, TarField field, uint64_t value);
void SetTarText(TarBlock* block, TarField field, std::string_view text);

// The sum of all header bytes with the checksum field counted as spaces.
uint64_t TarChecksumOf(const TarBlock& block);

bool IsZeroBlock(const TarBlock& block);

// `name` with leading "./" removed. INVALID_ARGUMENT (without place, the caller adds it) when what is left is
// empty, absolute, holds an empty, "." or ".." part, a backslash or a control character.
absl::StatusOr<std::string> CheckTarName(std::string_view name);

}  // namespace vlm::data

#endif  // VLM_DATA_TAR_TAR_HEADER_H_
