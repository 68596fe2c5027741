#include "base/status.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "absl/strings/cord.h"
#include "base/check.h"

namespace vlm {
namespace {

TEST(Annotate, KeepsCodeAndPayloads) {
  absl::Status status = absl::NotFoundError("gone");
  status.SetPayload("url", absl::Cord("payload"));
  const absl::Status annotated = Annotate(status, "reading x");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(annotated.message(), "reading x: gone");
  EXPECT_EQ(annotated.GetPayload("url"), absl::Cord("payload"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
}

TEST(ErrnoStatus, MapsTheCodesCallersActOn) {
  EXPECT_EQ(ErrnoStatus(ENOENT, "open x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrnoStatus(EEXIST, "x").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ErrnoStatus(EACCES, "x").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(ENOSPC, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EDQUOT, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EIO, "x").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ErrnoStatus(ENOENT, "open x").message(), "open x: No such file or directory");
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}
absl::StatusOr<int> Quarter(int value) {
  VLM_ASSIGN_OR_RETURN(const int half, Half(value));
  VLM_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}
absl::Status Even(int value) {
  VLM_RETURN_IF_ERROR(Half(value).status());
  return absl::OkStatus();
}

TEST(Macros, ReturnTheFirstError) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_FALSE(Quarter(6).ok());
  EXPECT_FALSE(Quarter(5).ok());
  EXPECT_TRUE(Even(2).ok());
  EXPECT_EQ(Even(1).message(), "odd");
}

TEST(CheckDeathTest, NamesPlaceConditionAndMessage) {
  EXPECT_DEATH(VLM_CHECK(1 > 2, std::string("numbers are broken")), "status_test.cc:.*1 > 2: numbers are broken");
}

}  // namespace
}  // namespace vlm
