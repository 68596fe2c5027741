// Every rule of the container, on write and on read; the attacks are those of huggingface/safetensors
// attacks/README.md and of the rules beside them.
#include "checkpoint/format/safetensors.h"

#include <gtest/gtest.h>

#include "gmock/gmock.h"

namespace vlm::checkpoint {
namespace {

using ::testing::HasSubstr;

// The header of a file whose data has `data_bytes`.
absl::StatusOr<SafetensorsHeader> Parse(const std::string& json, uint64_t data_bytes) {
  return ParseSafetensorsHeader(json, 8 + json.size() + data_bytes);
}

void ExpectRefused(const std::string& json, uint64_t data_bytes, const std::string& why) {
  const absl::StatusOr<SafetensorsHeader> header = Parse(json, data_bytes);
  ASSERT_FALSE(header.ok()) << json.substr(0, 200);
  EXPECT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(header.status().message()), HasSubstr(why));
}

std::string Length(uint64_t n) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(n >> (8 * i) & 0xff);
  return bytes;
}

TEST(Safetensors, ReadsAPlainHeader) {
  const auto header =
      Parse(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
            R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  )",
            16);
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "a");  // in the order of the bytes
  EXPECT_TRUE(header->tensors[0].shape.empty());
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(header->tensors[1].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(header->metadata.at("format"), "pt");
  EXPECT_EQ(header->data_bytes(), 16u);
}

TEST(Safetensors, ReadsEmptyFileAndEmptyTensors) {
  EXPECT_TRUE(Parse("{}", 0).ok());
  EXPECT_TRUE(Parse(R"({"__metadata__":{}})", 0).ok());
  const auto header = Parse(
      R"({"z":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"y":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
      R"("w":{"dtype":"F64","shape":[0],"data_offsets":[1,1]}})",
      1);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors.front().name, "z");
  EXPECT_EQ(header->tensors.back().name, "w");
}

TEST(Safetensors, RefusesBadLengths) {
  EXPECT_FALSE(ParseHeaderLength("1234567", 7).ok());
  EXPECT_THAT(std::string(ParseHeaderLength("1234567", 100).status().message()), HasSubstr("too short"));
  EXPECT_THAT(std::string(ParseHeaderLength(Length(100'000'001), uint64_t{1} << 40).status().message()),
              HasSubstr("limit"));
  EXPECT_FALSE(ParseHeaderLength(Length(UINT64_MAX), uint64_t{1} << 40).ok());  // N + 8 overflows
  EXPECT_FALSE(ParseHeaderLength(Length(UINT64_MAX - 7), uint64_t{1} << 40).ok());
  EXPECT_THAT(std::string(ParseHeaderLength(Length(93), 100).status().message()), HasSubstr("does not fit"));
  EXPECT_EQ(*ParseHeaderLength(Length(92), 100), 92u);
  EXPECT_EQ(*ParseHeaderLength(Length(100'000'000), 100'000'008), 100'000'000u);
}

TEST(Safetensors, RefusesWhatIsNoHeader) {
  ExpectRefused("", 0, "begin with {");
  ExpectRefused(" {}", 0, "begin with {");
  ExpectRefused("[]", 0, "begin with {");
  ExpectRefused("{", 0, "no valid JSON");
  ExpectRefused("{}x", 0, "no valid JSON");
  ExpectRefused(std::string("{}\0", 3), 0, "no valid JSON");
  ExpectRefused("{\"\xff\":1}", 0, "no valid JSON");
  ExpectRefused(R"({"\ud800":1})", 0, "no valid JSON");
  ExpectRefused(R"({"a":NaN})", 0, "no valid JSON");
  ExpectRefused(R"({"a":1e999})", 0, "JSON cannot");
  EXPECT_THAT(std::string(ParseSafetensorsHeader("{}", 9).status().message()), HasSubstr("does not fit the file"));
}

TEST(Safetensors, RefusesDuplicateKeysAtEveryLevel) {
  const std::string tensor = R"({"dtype":"I8","shape":[1],"data_offsets":[0,1]})";
  ExpectRefused("{\"a\":" + tensor + ",\"a\":" + tensor + "}", 1, "twice: \"a\"");
  ExpectRefused("{\"a\":" + tensor + ",\"\\u0061\":" + tensor + "}", 1, "twice: \"a\"");  // another spelling
  ExpectRefused(R"({"__metadata__":{"k":"1","k":"2"}})", 0, "twice: \"k\"");
  ExpectRefused(R"({"__metadata__":{},"__metadata__":{}})", 0, "twice");
  ExpectRefused(R"({"a":{"dtype":"I8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, "twice: \"dtype\"");
}

TEST(Safetensors, RefusesBadMetadata) {
  ExpectRefused(R"({"__metadata__":{"k":1}})", 0, "strings to strings");
  ExpectRefused(R"({"__metadata__":{"k":{"x":"y"}}})", 0, "strings to strings");
  ExpectRefused(R"({"__metadata__":[]})", 0, "strings to strings");
}

TEST(Safetensors, RefusesBadEntries) {
  ExpectRefused(R"({"a":1})", 0, "must be an object");
  ExpectRefused(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "lacks dtype");
  ExpectRefused(R"({"a":{"dtype":"I8","data_offsets":[0,1]}})", 1, "lacks shape");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1]}})", 1, "lacks data_offsets");
  ExpectRefused(R"({"a":{"dtype":"i8","shape":[1],"data_offsets":[0,1]}})", 1, "unknown dtype");
  ExpectRefused(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", 1, "unknown dtype");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":1,"data_offsets":[0,1]}})", 1, "shape must be");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,1]}})", 1, "shape must be");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1.0],"data_offsets":[0,1]}})", 1, "shape must be");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[18446744073709551616],"data_offsets":[0,1]}})", 1, "shape must be");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0]}})", 1, "two numbers");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1,2]}})", 1, "two numbers");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[-1,0]}})", 1, "two numbers");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[1,0]}})", 1, "end before they begin");
}

TEST(Safetensors, RefusesShapesThatDoNotFit) {
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "need 8");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8, "need 4");
  ExpectRefused(R"({"a":{"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "overflows");
  ExpectRefused(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0, "overflows");
  ExpectRefused(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, "end on a byte");
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}})", 3).ok());
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", 3).ok());
}

TEST(Safetensors, RefusesHolesOverlapsAndTrailingBytes) {
  const auto two = [](int b0, int e0, int b1, int e1) {
    const auto tensor = [](int begin, int end) {
      return R"({"dtype":"I8","shape":[)" + std::to_string(end - begin) + R"(],"data_offsets":[)" +
             std::to_string(begin) + "," + std::to_string(end) + "]}";
    };
    return "{\"a\":" + tensor(b0, e0) + ",\"b\":" + tensor(b1, e1) + "}";
  };
  EXPECT_TRUE(Parse(two(0, 4, 4, 8), 8).ok());
  EXPECT_TRUE(Parse(two(4, 8, 0, 4), 8).ok());
  ExpectRefused(two(1, 4, 4, 8), 8, "hole");
  ExpectRefused(two(0, 4, 5, 8), 8, "hole");
  ExpectRefused(two(0, 4, 3, 8), 8, "overlap");
  ExpectRefused(two(0, 4, 0, 4), 4, "overlap");  // two names for the same bytes
  ExpectRefused(two(0, 8, 2, 4), 8, "overlap");
  ExpectRefused(two(0, 4, 4, 8), 9, "the file at 9");
  ExpectRefused(two(0, 4, 4, 8), 7, "the file at 7");
  ExpectRefused("{}", 1, "the file at 1");
}

TEST(Safetensors, RefusesDeepHeaders) {
  ExpectRefused("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}", 0, "deeper");
}

// Many tensors are no reason to refuse a header; one fault among them is.
TEST(Safetensors, ReadsManyTensorsAndChecksEveryOne) {
  constexpr int kTensors = 20'000;
  const auto header = [](int faulty) {
    std::string many = "{";
    for (int i = 0; i < kTensors; ++i) {
      const int begin = i == faulty ? i - 1 : i;
      many += "\"" + std::to_string(i) + R"(":{"dtype":"I8","shape":[)" + std::to_string(i + 1 - begin) +
              R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(i + 1) + "]},";
    }
    many.back() = '}';
    return many;
  };
  const auto parsed = Parse(header(-1), kTensors);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors.size(), static_cast<size_t>(kTensors));
  EXPECT_EQ(parsed->tensors.back().name, "19999");
  ExpectRefused(header(kTensors - 1), kTensors, "overlap in the data at byte 19998: tensor \"19999\"");
}

TEST(Safetensors, PlansInTheReferenceOrder) {
  const auto header = PlanSafetensors({{"u8", DType::kU8, {3}},
                                       {"b", DType::kF32, {2}},
                                       {"a", DType::kF32, {1}},
                                       {"i64", DType::kI64, {}},
                                       {"bf16", DType::kBF16, {0, 5}}},
                                      {{"format", "pt"}});
  ASSERT_TRUE(header.ok()) << header.status();
  std::string order;
  for (const TensorEntry& tensor : header->tensors) order += tensor.name + " ";
  EXPECT_EQ(order, "i64 a b bf16 u8 ");
  EXPECT_EQ(header->data_bytes(), 8u + 4 + 8 + 0 + 3);
  const std::string bytes = SerializeSafetensorsHeader(*header);
  EXPECT_EQ(bytes.size() % 8, 0u);
  const auto again = ParseSafetensorsHeader(std::string_view(bytes).substr(8), bytes.size() + header->data_bytes());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tensors.size(), 5u);
  EXPECT_EQ(again->data_begin, header->data_begin);
}

TEST(Safetensors, RefusesToPlanWhatItWouldNotRead) {
  const auto expect_refused = [](std::vector<TensorSpec> tensors, std::map<std::string, std::string> metadata,
                                 const std::string& why) {
    const absl::Status status = PlanSafetensors(std::move(tensors), std::move(metadata)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  };
  expect_refused({{"", DType::kU8, {}}}, {}, "a name must be");
  expect_refused({{"__metadata__", DType::kU8, {}}}, {}, "a name must be");
  expect_refused({{"\xff", DType::kU8, {}}}, {}, "a name must be");
  expect_refused({{"a", DType::kU8, {1}}, {"a", DType::kF32, {1}}}, {}, "unique");
  expect_refused({{"a", DType::kF4, {1}}}, {}, "end on a byte");
  expect_refused({{"a", DType::kU8, {uint64_t{1} << 33, uint64_t{1} << 33}}}, {}, "product overflows");
  expect_refused({{"a", DType::kU8, {uint64_t{1} << 62}}}, {}, "size in bits overflows");
  std::vector<TensorSpec> largest;  // each can be, all together cannot
  for (const char* const name : {"a", "b", "c", "d", "e"}) {
    largest.push_back({name, DType::kU8, {(uint64_t{1} << 61) - 1}});
  }
  expect_refused(largest, {}, "the data's size overflows");
  largest.pop_back();
  EXPECT_TRUE(PlanSafetensors(largest, {}).ok());
  expect_refused({}, {{"k", "\xc3"}}, "metadata must be UTF-8");
  expect_refused({}, {{"\xc3", "v"}}, "metadata must be UTF-8");
  EXPECT_TRUE(PlanSafetensors({}, {{"only", "metadata"}}).ok());
}

TEST(Safetensors, NamesAndBitsOfEveryDType) {
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
    EXPECT_GT(BitsOf(dtype), 0u);
  }
  EXPECT_FALSE(DTypeFromName("F33").has_value());
}

}  // namespace
}  // namespace vlm::checkpoint
