#include "data/tar/tar_writer.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "data/tar/tar_header.h"

namespace vlm::data {
namespace {

constexpr uint64_t kMemberBytesEnd = uint64_t{1} << 33;  // eleven octal digits
constexpr uint64_t kMode = 0644;
constexpr std::string_view kMagic("ustar\00000", 8);  // magic and version

// Prefix and name of ustar; nothing when no '/' cuts the name into parts that fit.
std::optional<std::pair<std::string_view, std::string_view>> CutName(std::string_view name) {
  if (name.size() <= kTarName.size) return std::pair{std::string_view(), name};
  for (size_t slash = name.find('/'); slash != std::string_view::npos; slash = name.find('/', slash + 1)) {
    if (slash <= kTarPrefix.size && name.size() - slash - 1 <= kTarName.size) {
      return std::pair{name.substr(0, slash), name.substr(slash + 1)};
    }
  }
  return std::nullopt;
}

TarBlock HeaderOf(std::string_view prefix, std::string_view name, uint64_t bytes) {
  TarBlock block{};
  SetTarText(&block, kTarName, name);
  SetTarNumber(&block, kTarMode, kMode);
  SetTarNumber(&block, kTarOwner, 0);
  SetTarNumber(&block, kTarGroup, 0);
  SetTarNumber(&block, kTarSize, bytes);
  SetTarNumber(&block, kTarTime, 0);
  SetTarText(&block, kTarType, "0");
  SetTarText(&block, kTarMagic, kMagic);
  SetTarNumber(&block, kTarDeviceMajor, 0);
  SetTarNumber(&block, kTarDeviceMinor, 0);
  SetTarText(&block, kTarPrefix, prefix);
  // By custom six digits, NUL, space.
  SetTarNumber(&block, {kTarChecksum.offset, 7}, TarChecksumOf(block));
  block[kTarChecksum.offset + 7] = std::byte{' '};
  return block;
}

}  // namespace

absl::Status TarWriter::Append(std::string_view name, std::span<const std::byte> contents) {
  if (finished_) return absl::FailedPreconditionError("tar archive is finished; no member can be added");
  VLM_ASSIGN_OR_RETURN(const std::string checked, CheckTarName(name));
  const auto cut = CutName(checked);
  if (!cut.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tar member name does not fit ustar (155 + 100 bytes, cut at a '/'); shorten it: ", checked));
  }
  if (contents.size() >= kMemberBytesEnd) {
    return absl::InvalidArgumentError(
        absl::StrCat("tar member must be below 8 GiB; cut it: ", checked, ", bytes ", contents.size()));
  }
  VLM_RETURN_IF_ERROR(Write(HeaderOf(cut->first, cut->second, contents.size())));
  VLM_RETURN_IF_ERROR(Write(contents));
  const TarBlock zeros{};
  return Write(std::span(zeros).first(RoundUpToTarBlock(contents.size()) - contents.size()));
}

absl::Status TarWriter::Finish() {
  if (finished_) return absl::FailedPreconditionError("tar archive is already finished");
  finished_ = true;
  const TarBlock zeros{};
  VLM_RETURN_IF_ERROR(Write(zeros));
  return Write(zeros);
}

absl::Status TarWriter::Write(std::span<const std::byte> bytes) {
  if (bytes.empty()) return absl::OkStatus();
  VLM_RETURN_IF_ERROR(file_->Append(bytes));
  bytes_written_ += bytes.size();
  return absl::OkStatus();
}

}  // namespace vlm::data
