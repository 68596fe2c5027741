// Decoding and encoding against a live Pillow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>

#include "base/random.h"
#include "data/image/codecs.h"
#include "data/image/image.h"
#include "tests/unit/image/oracle.h"

namespace vlm::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// CRC-32 as PNG has it (ISO 3309), bit by bit.
uint32_t PngChecksum(std::string_view bytes) {
  uint32_t sum = ~0u;
  for (const char byte : bytes) {
    sum ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ ((sum & 1) != 0 ? 0xEDB88320u : 0u);
  }
  return ~sum;
}

// The most memory this process has had.
int64_t PeakKib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

Image NoiseImage(int width, int height, uint64_t seed) {
  Rng rng(RngKey{seed});
  Image image{width, height, {}};
  for (int i = 0; i < 3 * width * height; ++i) image.rgb.push_back(static_cast<uint8_t>(rng.Below(256)));
  return image;
}

TEST(DecodeTest, EqualsPillowByteForByte) {
  const std::string folder = EmptyFolder("decode");
  ASSERT_TRUE(RunOracle("pillow_oracle.py", "decode", folder));
  const nlohmann::json cases = Cases(folder);
  ASSERT_GT(cases.size(), 90);
  for (const auto& row : cases) {
    const std::string name = row["name"];
    const std::string file = Contents(folder + "/" + name);
    const auto rule = row["transpose"].get<bool>() ? OrientationRule::kFollowExif : OrientationRule::kAsStored;
    const auto image = DecodeImage(BytesOf(file), DecodeLimits{}, rule);
    ASSERT_TRUE(image.ok()) << name << ": " << image.status();
    const Image want = RawImage(folder + "/" + name + ".rgb", row["width"], row["height"]);
    EXPECT_EQ(image->width, want.width) << name;
    EXPECT_EQ(image->height, want.height) << name;
    EXPECT_TRUE(image->rgb == want.rgb) << name;
  }
}

TEST(DecodeTest, RefusesWhatPillowRefusesOfCutFiles) {
  const std::string folder = EmptyFolder("damaged");
  ASSERT_TRUE(RunOracle("pillow_oracle.py", "damaged", folder));
  int accepted = 0, refused = 0;
  for (const auto& row : Cases(folder)) {
    const std::string name = row["name"];
    const auto image = DecodeImage(BytesOf(Contents(folder + "/" + name)), DecodeLimits{});
    // Pillow reads a PNG without the last bytes of its picture data and the end chunk (12 bytes); we do not.
    const int missing = row["missing"];
    const bool lost_tail = name.ends_with(".png") && missing > 12 && missing <= 24;
    ASSERT_EQ(image.ok(), row["accepted"].get<bool>() && !lost_tail)
        << name << ", missing " << missing << " bytes: " << image.status();
    if (image.ok()) {
      ++accepted;
      EXPECT_TRUE(image->rgb == RawImage(folder + "/" + name + ".rgb", 64, 48).rgb) << name;
    } else {
      ++refused;
      EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument) << name;
    }
  }
  EXPECT_GT(refused, 250);
  EXPECT_GT(accepted, 3);
}

TEST(DecodeTest, SizeIsCheckedFromTheHeaderBeforeMemoryIsTaken) {
  // A valid start that claims 60,000 x 60,000 pixels; decoding it would take 10 GiB.
  std::string jpeg = *EncodeJpeg(NoiseImage(8, 8, 1), 90);
  const size_t frame = jpeg.find(std::string("\xFF\xC0", 2));
  ASSERT_NE(frame, std::string::npos);
  for (const size_t at : {frame + 5, frame + 7}) {
    jpeg[at] = static_cast<char>(60'000 >> 8);
    jpeg[at + 1] = static_cast<char>(60'000 & 0xFF);
  }
  const auto large = DecodeImage(BytesOf(jpeg), DecodeLimits{});
  EXPECT_EQ(large.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("60000 x 60000"));

  // The same of a PNG, with the right checksum over its header.
  std::string claims = *EncodePng(NoiseImage(8, 8, 1));
  for (const size_t at : {size_t{16}, size_t{20}}) claims.replace(at, 4, std::string("\0\0\xEA\x60", 4));
  const uint32_t sum = PngChecksum(std::string_view(claims).substr(12, 17));
  for (size_t i = 0; i < 4; ++i) claims[29 + i] = static_cast<char>(sum >> (24 - 8 * i));
  const int64_t before = PeakKib();
  const auto larger = DecodeImage(BytesOf(claims), DecodeLimits{});
  EXPECT_EQ(larger.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(larger.status().message()),
              AllOf(HasSubstr("shrink it"), HasSubstr("60000 x 60000"), HasSubstr("limit 67108864 pixels")));
  EXPECT_EQ(DecodeImage(BytesOf(jpeg), DecodeLimits{}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LT(PeakKib() - before, 16 << 10);

  const std::string png = *EncodePng(NoiseImage(30, 20, 2));
  EXPECT_TRUE(DecodeImage(BytesOf(png), DecodeLimits{600, 1 << 20}).ok());
  const auto pixels = DecodeImage(BytesOf(png), DecodeLimits{599, 1 << 20});
  EXPECT_EQ(pixels.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(pixels.status().message()), HasSubstr("30 x 20, limit 599 pixels"));
  const auto bytes = DecodeImage(BytesOf(png), DecodeLimits{600, png.size() - 1});
  EXPECT_EQ(bytes.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(DecodeTest, HeaderGivesFormatAndSizeWithoutDecoding) {
  const std::string jpeg = *EncodeJpeg(NoiseImage(31, 17, 3), 80);
  const auto header = ReadImageHeader(BytesOf(std::string_view(jpeg).substr(0, jpeg.size() - 40)));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->format, ImageFormat::kJpeg);
  EXPECT_EQ(header->width, 31);
  EXPECT_EQ(header->height, 17);
  EXPECT_EQ(header->exif_orientation, 1);
}

TEST(DecodeTest, UnknownAndRefusedKindsAreNamed) {
  const auto text = DecodeImage(BytesOf("GIF89a not one of ours"), DecodeLimits{});
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("neither JPEG nor PNG"));
  EXPECT_EQ(DecodeImage({}, DecodeLimits{}).status().code(), absl::StatusCode::kInvalidArgument);

  std::string jpeg = *EncodeJpeg(NoiseImage(8, 8, 4), 90);
  const size_t frame = jpeg.find(std::string("\xFF\xC0", 2));
  jpeg[frame + 1] = static_cast<char>(0xC9);  // arithmetic coding
  EXPECT_EQ(DecodeImage(BytesOf(jpeg), DecodeLimits{}).status().code(), absl::StatusCode::kUnimplemented);

  std::string png = *EncodePng(NoiseImage(8, 8, 5));
  png[png.find("IDAT") + 20] ^= 0x10;  // a wrong CRC
  EXPECT_EQ(DecodeImage(BytesOf(png), DecodeLimits{}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DecodeTest, TwoFrameHeadersOfDifferentSizesAreRefused) {
  const std::string jpeg = *EncodeJpeg(NoiseImage(8, 8, 4), 90);
  const size_t frame = jpeg.find(std::string("\xFF\xC0", 2));
  ASSERT_NE(frame, std::string::npos);
  const ImageHeader header = *ReadImageHeader(BytesOf(jpeg));
  for (const auto& [width, height] : {std::pair{9, 8}, std::pair{8, 9}}) {
    ImageHeader other = header;
    other.width = width;
    other.height = height;
    const absl::Status status = DecodeJpeg(BytesOf(jpeg), other).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("two frame headers"));
  }
  EXPECT_TRUE(DecodeJpeg(BytesOf(jpeg), header).ok());
}

// A directory of one entry at offset 8, of either byte order.
std::string Exif(std::string_view tag_type_count_value) {
  return std::string("MM\0*\0\0\0\x08\0\1", 10) + std::string(tag_type_count_value);
}

TEST(DecodeTest, AnOrientationThatIsDamagedIsUpright) {
  const auto entry = [](std::string_view tag, std::string_view type, std::string_view count, char value) {
    return Exif(std::string(tag) + std::string(type) + std::string(count) + std::string({'\0', value, '\0', '\0'}));
  };
  const std::string_view tag("\x01\x12", 2), number("\0\3", 2), one("\0\0\0\1", 4);
  EXPECT_EQ(OrientationOfExif(BytesOf(entry(tag, number, one, 6))), 6);
  EXPECT_EQ(OrientationOfExif(BytesOf(entry(tag, number, one, 0))), 1);
  EXPECT_EQ(OrientationOfExif(BytesOf(entry(tag, number, one, 9))), 1);
  EXPECT_EQ(OrientationOfExif(BytesOf(entry(tag, std::string_view("\0\4", 2), one, 6))), 1);
  EXPECT_EQ(OrientationOfExif(BytesOf(entry(tag, number, std::string_view("\0\0\0\2", 4), 6))), 1);
  EXPECT_EQ(OrientationOfExif(BytesOf(entry(std::string_view("\x01\x13", 2), number, one, 6))), 1);
  const std::string good = entry(tag, number, one, 6);
  for (size_t size = 0; size + 3 < good.size(); ++size) {  // the value's last two bytes are padding
    EXPECT_EQ(OrientationOfExif(BytesOf(std::string_view(good).substr(0, size))), 1) << size;
  }
  for (const auto& [at, byte] : {std::pair{size_t{0}, 'I'}, std::pair{size_t{1}, 'I'}, std::pair{size_t{0}, 'X'},
                                 std::pair{size_t{3}, '+'}, std::pair{size_t{4}, '\x7F'}}) {
    std::string damaged = good;
    damaged[at] = byte;
    EXPECT_EQ(OrientationOfExif(BytesOf(damaged)), 1) << at;
  }
}

// No input may crash, hang or take more than its limits.
TEST(DecodeTest, SurvivesChangedBytes) {
  Rng rng(RngKey{6});
  const std::string files[] = {*EncodeJpeg(NoiseImage(20, 14, 6), 85), *EncodePng(NoiseImage(20, 14, 7))};
  int decoded = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string file = files[round % 2];
    for (uint64_t i = 1 + rng.Below(4); i > 0; --i) {
      file[rng.Below(file.size())] = static_cast<char>(rng.Below(256));
    }
    const auto image = DecodeImage(BytesOf(file), DecodeLimits{100'000, 1 << 20}, OrientationRule::kFollowExif);
    if (!image.ok()) continue;
    ++decoded;
    EXPECT_EQ(image->rgb.size(), 3 * static_cast<size_t>(image->width) * static_cast<size_t>(image->height));
  }
  EXPECT_GT(decoded, 0);
}

TEST(EncodeTest, PillowReadsTheSamePixelsBack) {
  const std::string folder = EmptyFolder("encoded");
  int number = 0;
  for (const auto& [width, height] : {std::pair{1, 1}, std::pair{17, 9}, std::pair{64, 48}}) {
    const Image image = NoiseImage(width, height, 8);
    const std::string raw(image.rgb.begin(), image.rgb.end());
    const auto write = [&](const std::string& name, const absl::StatusOr<std::string>& file) {
      ASSERT_TRUE(file.ok()) << file.status();
      WriteContents(folder + "/" + name, *file);
      WriteContents(folder + "/" + name + ".rgb", raw);
    };
    const std::string stem = std::to_string(number++);
    write(stem + ".png", EncodePng(image));
    write(stem + "_92_2.jpg", EncodeJpeg(image, 92, JpegSubsampling::k420));
    write(stem + "_40_0.jpg", EncodeJpeg(image, 40, JpegSubsampling::k444));
  }
  EXPECT_TRUE(RunOracle("pillow_oracle.py", "encoded", folder));
}

TEST(EncodeTest, RefusesEmptyPicturesAndQualitiesOutsideTheScale) {
  EXPECT_EQ(EncodePng(Image{}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeJpeg(Image{}, 90).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeJpeg(NoiseImage(4, 4, 9), 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeJpeg(NoiseImage(4, 4, 9), 101).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeJpeg(Image{4, 4, std::vector<uint8_t>(47)}, 90).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodePng(Image{4, 4, std::vector<uint8_t>(47)}).status().code(), absl::StatusCode::kInvalidArgument);
  for (const auto& [width, height] :
       {std::pair{1, 0}, std::pair{0, 1}, std::pair{65'501, 1}, std::pair{1, 65'501}}) {  // beyond libjpeg's limit
    const Image image{width, height,
                      std::vector<uint8_t>(3 * static_cast<size_t>(width) * static_cast<size_t>(height))};
    EXPECT_EQ(EncodeJpeg(image, 90).status().code(), absl::StatusCode::kInvalidArgument) << width << " x " << height;
    EXPECT_EQ(EncodePng(image).ok(), !image.rgb.empty()) << width << " x " << height;
  }
  for (const auto& [width, height] : {std::pair{1'000'001, 1}, std::pair{1, 1'000'001}}) {
    EXPECT_EQ(EncodePng(Image{width, height, std::vector<uint8_t>(3'000'003)}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace vlm::data
