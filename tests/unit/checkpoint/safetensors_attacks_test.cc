// Every attack on a safetensors file that the rules of the reference reader answer, one test each, as files on a disk:
// the reader must refuse with the rule's name and the file's, read nothing out of bounds and reserve nothing huge.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_system.h"
#include "checkpoint/format/safetensors_reader.h"
#include "checkpoint/format/safetensors_writer.h"

namespace vlm::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string LengthBytes(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}

// Of a header that is refused by its length; a tenth of the limit.
constexpr uint64_t kHeldMax = 10'000'000;

// The peak of memory becomes what is held now: man 5 proc. False where it cannot be, as in some containers.
bool ResetPeak() {
  std::ofstream reset("/proc/self/clear_refs");
  reset << 5 << std::flush;
  return reset.good();
}

// What the process held in memory while `work` ran, at most, beyond what it held before; in bytes.
uint64_t PeakGrowth(const std::function<void()>& work) {
  const auto peak = [] {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      if (word == "VmHWM:") break;
    }
    uint64_t kib = 0;
    status >> kib;
    EXPECT_GT(kib, 0u);
    return kib << 10;
  };
  EXPECT_TRUE(ResetPeak());
  const uint64_t before = peak();
  work();
  return peak() - before;
}

class SafetensorsAttack : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(::testing::TempDir(), "attack_",
                         ::testing::UnitTest::GetInstance()->current_test_info()->name(), ".safetensors");
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  absl::StatusOr<std::unique_ptr<SafetensorsReader>> OpenBytes(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
    return SafetensorsReader::Open(PosixFileSystem(), path_, {.require_sums = false});
  }
  absl::StatusOr<std::unique_ptr<SafetensorsReader>> OpenHeader(const std::string& header, size_t data_bytes) {
    return OpenBytes(LengthBytes(header.size()) + header + std::string(data_bytes, '\1'));
  }
  void ExpectRefused(const std::string& header, size_t data_bytes, const std::string& rule) {
    const absl::Status status = OpenHeader(header, data_bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path_), HasSubstr(rule)));
  }
  void ExpectBytesRefused(const std::string& bytes, const std::string& rule) {
    const absl::Status status = OpenBytes(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path_), HasSubstr(rule)));
  }

  std::string path_;
};

constexpr char kOne[] = R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})";

TEST_F(SafetensorsAttack, TheHarmlessFileOpens) { EXPECT_TRUE(OpenHeader(kOne, 4).ok()); }

// --- the header's length

TEST_F(SafetensorsAttack, AFileShorterThanItsLengthField) {
  ExpectBytesRefused("", "too short for a header");
  ExpectBytesRefused("1234567", "too short for a header");
}

TEST_F(SafetensorsAttack, ALengthAboveOneHundredMillion) {
  ExpectBytesRefused(LengthBytes(100'000'001) + kOne, "longer than the limit of 100000000 bytes: 100000001");
}

TEST_F(SafetensorsAttack, ALengthThatOverflowsWithItsEightBytes) {
  ExpectBytesRefused(LengthBytes(UINT64_MAX) + kOne, "longer than the limit");
  ExpectBytesRefused(LengthBytes(UINT64_MAX - 7) + kOne, "longer than the limit");
  ExpectBytesRefused(LengthBytes(uint64_t{1} << 63) + kOne, "longer than the limit");
}

TEST_F(SafetensorsAttack, ALengthWithinTheLimitThatDoesNotFitTheFile) {
  ExpectBytesRefused(LengthBytes(sizeof(kOne)) + kOne, "does not fit the file");
  if (!ResetPeak()) GTEST_SKIP() << "/proc/self/clear_refs cannot be written: the peak of memory is not measured";
  const uint64_t held =
      PeakGrowth([&] { ExpectBytesRefused(LengthBytes(100'000'000) + kOne, "does not fit the file"); });
  EXPECT_LT(held, kHeldMax) << "memory was taken for a header that is not there";
}

TEST_F(SafetensorsAttack, AnEmptyHeader) { ExpectBytesRefused(LengthBytes(0) + "data", "must begin with {"); }

// --- the header's text

TEST_F(SafetensorsAttack, AHeaderThatIsNoUtf8) {
  ExpectRefused("{\"\xc3\x28\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "no valid JSON");
}

TEST_F(SafetensorsAttack, AHeaderThatDoesNotBeginWithABrace) {
  ExpectRefused(absl::StrCat(" ", kOne), 4, "must begin with {");
  ExpectRefused(absl::StrCat("\xef\xbb\xbf", kOne), 4, "must begin with {");
  ExpectRefused("[1]", 0, "must begin with {");
}

TEST_F(SafetensorsAttack, AHeaderThatIsNoJson) {
  ExpectRefused("{", 0, "no valid JSON");
  ExpectRefused(R"({"a":})", 0, "no valid JSON");
  ExpectRefused(absl::StrCat(kOne, kOne), 4, "no valid JSON");
}

TEST_F(SafetensorsAttack, AHeaderPaddedWithSpacesIsHarmlessWithZerosItIsNot) {
  EXPECT_TRUE(OpenHeader(absl::StrCat(kOne, "     "), 4).ok());
  ExpectRefused(std::string(kOne) + std::string(3, '\0'), 4, "no valid JSON");
}

// Tensors without bytes, each with a name of so many characters.
std::string HeaderOfMany(int tensors, size_t name_bytes) {
  std::string header = "{";
  for (int i = 0; i < tensors; ++i) {
    const std::string number = absl::StrCat(i);
    absl::StrAppend(&header, "\"", number, std::string(name_bytes - number.size(), 'n'),
                    R"(":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},)");
  }
  header.back() = '}';
  return header;
}

// Every entry is as it should be: all that can be refused is the header's size.
TEST_F(SafetensorsAttack, AHugeHeader) {
  const auto many = OpenHeader(HeaderOfMany(200'000, 8), 0);
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_EQ((*many)->header().tensors.size(), 200'000u);
  EXPECT_TRUE(OpenHeader(HeaderOfMany(100, 1000), 0).ok());
  const std::string header = HeaderOfMany(96'000, 1000);
  ASSERT_GT(header.size(), kSafetensorsHeaderBytesMax);
  std::ofstream(path_, std::ios::binary | std::ios::trunc) << LengthBytes(header.size()) << header;
  absl::Status status;
  if (!ResetPeak()) GTEST_SKIP() << "/proc/self/clear_refs cannot be written: the peak of memory is not measured";
  const uint64_t held =
      PeakGrowth([&] { status = SafetensorsReader::Open(PosixFileSystem(), path_, {.require_sums = false}).status(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr(absl::StrCat("longer than the limit of 100000000 bytes: ", header.size())), HasSubstr(path_)));
  EXPECT_LT(held, kHeldMax);
}

TEST_F(SafetensorsAttack, ADeeplyNestedHeader) {
  ExpectRefused("{\"a\":" + std::string(5'000'000, '[') + std::string(5'000'000, ']') + "}", 0, "deeper");
}

// --- metadata and keys

TEST_F(SafetensorsAttack, MetadataOfOtherThanStrings) {
  ExpectRefused(R"({"__metadata__":{"k":1}})", 0, "strings to strings");
  ExpectRefused(R"({"__metadata__":{"k":null}})", 0, "strings to strings");
  ExpectRefused(R"({"__metadata__":{"k":{"n":"v"}}})", 0, "strings to strings");
  ExpectRefused(R"({"__metadata__":"text"})", 0, "strings to strings");
}

TEST_F(SafetensorsAttack, DuplicateKeys) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"I8","shape":[2],"data_offsets":)"
                R"([0,2]}})",
                2, "twice: \"a\"");
  ExpectRefused(R"({"__metadata__":{"k":"1","k":"2"}})", 0, "twice: \"k\"");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[2],"shape":[4],"data_offsets":[0,4]}})", 4, "twice: \"shape\"");
}

// --- offsets

TEST_F(SafetensorsAttack, AFirstTensorThatDoesNotBeginAtZero) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}})", 8, "hole in the data before byte 4");
}

TEST_F(SafetensorsAttack, AHoleBetweenTensors) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"I8","shape":[2],"data_offsets":)"
                R"([3,5]}})",
                5, "hole in the data before byte 3: tensor \"b\"");
}

TEST_F(SafetensorsAttack, OverlappingTensors) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":)"
                R"([2,6]}})",
                6, "overlap in the data at byte 2: tensor \"b\"");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":)"
                R"([0,4]}})",
                4, "overlap in the data at byte 0");
}

TEST_F(SafetensorsAttack, OffsetsThatEndBeforeTheyBegin) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[4,0]}})", 4, "must not end before they begin");
}

TEST_F(SafetensorsAttack, NegativeAndOverflowingOffsets) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[-4,0]}})", 4, "two numbers from 0 on");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,18446744073709551620]}})", 4,
                "two numbers from 0 on");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[18446744073709551612,18446744073709551615]}})", 4,
                "span 3 bytes");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0.0,4.0]}})", 4, "two numbers from 0 on");
}

TEST_F(SafetensorsAttack, OffsetsBehindTheEndOfTheFile) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1000000],"data_offsets":[0,1000000]}})", 4,
                "end at byte 1000000 of the data, the file at 4");
}

TEST_F(SafetensorsAttack, TrailingBytes) {
  ExpectRefused(kOne, 5, "end at byte 4 of the data, the file at 5");
  ExpectRefused("{}", 1, "end at byte 0 of the data, the file at 1");
}

TEST_F(SafetensorsAttack, ATruncatedFile) { ExpectRefused(kOne, 3, "end at byte 4 of the data, the file at 3"); }

// --- shapes and types

TEST_F(SafetensorsAttack, AShapeWhoseProductOverflows) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                "the shape's product overflows 64 bits: tensor \"a\"");
}

TEST_F(SafetensorsAttack, AShapeWhoseSizeInBitsOverflows) {
  ExpectRefused(R"({"a":{"dtype":"F64","shape":[576460752303423488],"data_offsets":[0,0]}})", 0,
                "the size in bits overflows 64 bits");
}

TEST_F(SafetensorsAttack, AShapeThatDoesNotMatchItsBytes) {
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "span 4 bytes, shape and dtype need 8");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[],"data_offsets":[0,4]}})", 4, "span 4 bytes, shape and dtype need 1");
}

TEST_F(SafetensorsAttack, NegativeAndFractionalShapes) {
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[-2,-2],"data_offsets":[0,4]}})", 4, "numbers from 0 on");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4.0],"data_offsets":[0,4]}})", 4, "numbers from 0 on");
}

TEST_F(SafetensorsAttack, ASubByteTypeThatDoesNotEndOnAByte) {
  ExpectRefused(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2, "must end on a byte");
  ExpectRefused(R"({"a":{"dtype":"F6_E3M2","shape":[2],"data_offsets":[0,2]}})", 2, "must end on a byte");
}

TEST_F(SafetensorsAttack, AnUnknownType) {
  ExpectRefused(R"({"a":{"dtype":"PICKLE","shape":[4],"data_offsets":[0,4]}})", 4, "unknown dtype \"PICKLE\"");
}

TEST_F(SafetensorsAttack, WhatIsAllowedIsRead) {
  EXPECT_TRUE(OpenHeader(R"({"a":{"dtype":"I8","shape":[0,9],"data_offsets":[0,0]}})", 0).ok()) << "empty";
  EXPECT_TRUE(OpenHeader(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4).ok()) << "of rank 0";
  EXPECT_TRUE(OpenHeader(R"({"__metadata__":{"format":"pt"}})", 0).ok()) << "metadata only";
  const auto nan = OpenBytes(LengthBytes(sizeof(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})") - 1) +
                             R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})" + "\xff\xff\xff\xff");
  ASSERT_TRUE(nan.ok()) << nan.status();
  float value = 0;
  ASSERT_TRUE((*nan)->Read(*(*nan)->Find("a"), 0, std::as_writable_bytes(std::span(&value, 1))).ok());
  EXPECT_NE(value, value) << "NaN";
}

// --- a file that changes while it is read: the reader maps nothing, so that this is an error and no signal

TEST_F(SafetensorsAttack, AFileCutShortWhileItIsRead) {
  const auto reader = OpenHeader(kOne, 4);
  ASSERT_TRUE(reader.ok());
  std::filesystem::resize_file(path_, 20);
  std::vector<std::byte> bytes(4);
  const absl::Status read = (*reader)->Read(*(*reader)->Find("a"), 0, bytes);
  EXPECT_FALSE(read.ok());
  EXPECT_THAT(std::string(read.message()), HasSubstr(path_));
}

TEST_F(SafetensorsAttack, AFileWrittenOverWhileItIsReadIsFoundByItsSums) {
  auto writer = SafetensorsWriter::Create(PosixFileSystem(), path_,
                                          {{"a", DType::kU8, {16}}, {"b", DType::kU8, {kChunkBytes}}}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::string contents(16 + kChunkBytes, 'a');
  ASSERT_TRUE((*writer)->Append(std::as_bytes(std::span(contents.data(), contents.size()))).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto reader = SafetensorsReader::Open(PosixFileSystem(), path_);
  ASSERT_TRUE(reader.ok()) << reader.status();  // the header's chunk is verified now
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('b');
  }
  const TensorEntry& tensor = *(*reader)->Find("b");  // begins in the header's chunk, ends in the next
  std::vector<std::byte> first(16), last(16), whole(kChunkBytes);
  const auto expect_found = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("chunk 1 (bytes "), HasSubstr(path_)));
  };
  for (int times = 0; times < 2; ++times) {  // damage stays damage
    expect_found((*reader)->Read(tensor, kChunkBytes - last.size(), last));
    expect_found((*reader)->Read(tensor, 0, whole));
  }
  EXPECT_TRUE((*reader)->Read(tensor, 0, first).ok()) << "the chunk before is as it was";
  EXPECT_TRUE((*reader)->Read(*(*reader)->Find("a"), 0, first).ok());
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>((*reader)->header().data_begin));
    file.put('b');
  }
  const absl::Status again = SafetensorsReader::Open(PosixFileSystem(), path_).status();
  EXPECT_EQ(again.code(), absl::StatusCode::kDataLoss) << again;
  EXPECT_THAT(std::string(again.message()), AllOf(HasSubstr("chunk 0 (bytes 0 to "), HasSubstr(path_)));
  std::filesystem::remove(path_ + ".sum");
}

TEST_F(SafetensorsAttack, AWriterNeverWritesOverAFile) {
  ASSERT_TRUE(OpenHeader(kOne, 4).ok());
  const absl::Status status =
      SafetensorsWriter::Create(PosixFileSystem(), path_, {{"a", DType::kU8, {1}}}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status;
  EXPECT_TRUE(SafetensorsReader::Open(PosixFileSystem(), path_, {.require_sums = false}).ok()) << "it is as it was";
}

}  // namespace
}  // namespace vlm::checkpoint
