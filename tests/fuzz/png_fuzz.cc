// The PNG path: header, decoding of every kind of pixel, resizing to the model's floats. Checksums are put right, and
// an input is also taken as the contents of a PNG: kind and size from the first bytes, the rest compressed as its rows.
#include <zlib.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "data/image/image.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/picture_check.h"

namespace vlm::fuzz {
namespace {

constexpr std::string_view kSignature("\x89PNG\r\n\x1a\n", 8);

uint32_t Read32(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

std::string Write32(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string Crc(std::string_view text) {
  return Write32(
      static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<unsigned>(text.size()))));
}

// Each chunk's checksum put right, up to the first chunk that leaves the file.
std::string WithChecksums(std::string bytes) {
  size_t at = kSignature.size();
  while (at + 12 <= bytes.size()) {
    const uint64_t length = Read32(bytes, at);
    if (length > bytes.size() - at - 12) break;
    bytes.replace(at + 8 + length, 4, Crc(std::string_view(bytes).substr(at + 4, 4 + length)));
    at += 12 + length;
  }
  return bytes;
}

std::string Chunk(std::string_view type, std::string_view contents) {
  std::string named(type);
  named += contents;
  return Write32(static_cast<uint32_t>(contents.size())) + named + Crc(named);
}

std::string Deflated(std::string_view bytes) {
  std::string out(compressBound(bytes.size()), '\0');
  uLongf size = out.size();
  const int done = compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()),
                             bytes.size(), 1);
  VLM_CHECK(done == Z_OK, "cannot compress");
  out.resize(size);
  return out;
}

// Width, height, depth, colour type, interlacing, whether there are palette, transparency and EXIF; then rows.
std::string Built(FuzzInput input) {
  const uint32_t width = 1 + input.Byte() % 64, height = 1 + input.Byte() % 64;
  std::string header = Write32(width) + Write32(height);
  header += static_cast<char>(1 << (input.Byte() % 5));
  header += static_cast<char>(input.Byte() % 8);
  header += std::string(2, '\0') + static_cast<char>(input.Byte() % 3);
  std::string file = std::string(kSignature) + Chunk("IHDR", header);
  const uint8_t extras = input.Byte();
  if (extras & 1) file += Chunk("PLTE", input.Text());
  if (extras & 2) file += Chunk("tRNS", input.Text());
  if (extras & 4) file += Chunk("eXIf", input.Text());
  if (extras & 8) file += Chunk("tEXt", input.Text());
  std::string rows(input.Rest());
  // Most rows are there; a few inputs end too early.
  if (!(extras & 16)) rows.resize(std::max<size_t>(rows.size(), size_t{height} * (1 + width * 8)), '\x01');
  return file + Chunk("IDAT", Deflated(rows)) + Chunk("IEND", "");
}

}  // namespace
}  // namespace vlm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  vlm::fuzz::CheckPicture(bytes);
  vlm::fuzz::CheckPicture(vlm::fuzz::WithChecksums(bytes));
  vlm::fuzz::CheckPicture(vlm::fuzz::Built(vlm::fuzz::FuzzInput(data, size)));
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  for (const auto& [width, height] : {std::pair{1, 1}, {17, 9}, {40, 33}}) {
    vlm::data::Image image{width, height, {}};
    for (int i = 0; i < 3 * width * height; ++i) image.rgb.push_back(static_cast<uint8_t>(i * 37));
    absl::StatusOr<std::string> encoded = vlm::data::EncodePng(image);
    VLM_CHECK(encoded.ok(), encoded.status().ToString());
    seeds.push_back(*std::move(encoded));
  }
  for (char depth = 0; depth < 5; ++depth) {
    for (char colour = 0; colour < 7; ++colour) {
      seeds.push_back(std::string{15, 8, depth, colour, static_cast<char>(colour % 2), 3, 6} + "aabbcc" +
                      std::string("\x02\0\1\2\3\4\1\1\1\2\2\2", 12));
    }
  }
  return seeds;
}
