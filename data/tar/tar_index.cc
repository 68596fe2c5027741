#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "data/tar/tar_header.h"
#include "data/tar/tar_reader.h"

namespace vlm::data {
namespace {

constexpr uint64_t kExtensionBytesMax = uint64_t{1} << 20;  // of one pax or long name record
constexpr char kRegular = '0', kRegularOld = '\0', kContiguous = '7', kFolder = '5', kPax = 'x', kPaxGlobal = 'g',
               kGnuName = 'L', kGnuLink = 'K';

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// Values that a preceding extension record sets for the next member.
struct Overrides {
  std::optional<std::string> name;
  std::optional<uint64_t> bytes;
};

// Walks the headers of one archive.
class Indexer {
 public:
  Indexer(const ReadableFile& file, std::string_view file_name, const TarLimits& limits)
      : file_(file), file_name_(file_name), limits_(limits) {}

  absl::StatusOr<std::vector<TarMember>> Run();

 private:
  absl::Status AtHeader(absl::StatusCode code, std::string_view what) const {
    return absl::Status(code, absl::StrCat("tar archive ", Absl(what), ": ", file_name_, ", offset ", header_offset_));
  }
  absl::Status Malformed(std::string_view what) const { return AtHeader(absl::StatusCode::kDataLoss, what); }

  // True when a header was read, false at the end mark.
  absl::StatusOr<bool> NextHeader();
  absl::Status CheckNothingFollows() const;
  absl::Status ReadExtension(char type, uint64_t bytes);
  absl::Status ReadPaxRecords(std::string_view records);
  absl::Status SetPaxValue(std::string_view key, std::string_view value);
  absl::Status AddMember(char type, uint64_t bytes);
  absl::StatusOr<std::string> Contents(uint64_t bytes) const;
  std::string HeaderName() const;

  const ReadableFile& file_;
  const std::string file_name_;
  const TarLimits limits_;
  TarBlock block_{};
  uint64_t header_offset_ = 0;  // of block_
  uint64_t position_ = 0;       // behind block_: where contents begin
  Overrides overrides_;
  std::vector<TarMember> members_;
};

absl::StatusOr<bool> Indexer::NextHeader() {
  header_offset_ = position_;
  if (file_.size() - position_ < 2 * kTarBlock) {
    // Even an end mark does not fit.
    return Malformed(absl::StrCat("is cut short (no end mark); copy it again or write it anew, ", members_.size(),
                                  " whole members are there"));
  }
  VLM_RETURN_IF_ERROR(file_.ReadAt(position_, block_));
  position_ += kTarBlock;
  if (!IsZeroBlock(block_)) {
    const std::optional<uint64_t> checksum = TarNumber(block_, kTarChecksum);
    if (checksum != TarChecksumOf(block_)) return Malformed("has a header with a wrong checksum");
    return true;
  }
  VLM_RETURN_IF_ERROR(CheckNothingFollows());
  return false;
}

// The end mark is two zero blocks; padding to a record of any size may follow, but no more members.
absl::Status Indexer::CheckNothingFollows() const {
  std::vector<std::byte> chunk(64 * kTarBlock);
  for (uint64_t at = position_; at < file_.size(); at += chunk.size()) {
    const auto part = std::span(chunk).first(std::min<uint64_t>(chunk.size(), file_.size() - at));
    VLM_RETURN_IF_ERROR(file_.ReadAt(at, part));
    if (std::any_of(part.begin(), part.end(), [](std::byte byte) { return byte != std::byte{0}; })) {
      return Malformed("has data after its end mark (two archives in one file?)");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Indexer::Contents(uint64_t bytes) const {
  std::string contents(bytes, '\0');
  VLM_RETURN_IF_ERROR(file_.ReadAt(position_, std::as_writable_bytes(std::span(contents))));
  return contents;
}

std::string Indexer::HeaderName() const {
  const std::string_view name = TarText(block_, kTarName);
  // The old GNU format ("ustar  ") uses the prefix field for other things.
  const std::string_view prefix =
      TarText(block_, kTarMagic) == "ustar" ? TarText(block_, kTarPrefix) : std::string_view();
  return prefix.empty() ? std::string(name) : absl::StrCat(Absl(prefix), "/", Absl(name));
}

absl::Status Indexer::ReadExtension(char type, uint64_t bytes) {
  if (bytes > kExtensionBytesMax) {
    return AtHeader(absl::StatusCode::kResourceExhausted, "has an extension record above 1 MiB");
  }
  VLM_ASSIGN_OR_RETURN(std::string contents, Contents(bytes));
  if (type == kPax) return ReadPaxRecords(contents);
  if (type == kGnuName) {
    contents.resize(std::min(contents.find('\0'), contents.size()));
    overrides_.name = std::move(contents);
  }
  // Global pax records and long link names say nothing about a regular file that is wanted here.
  return absl::OkStatus();
}

// Records are "<length> <key>=<value>\n", the length counting itself.
absl::Status Indexer::ReadPaxRecords(std::string_view records) {
  while (!records.empty()) {
    const size_t space = records.find(' ');
    uint64_t length = 0;
    if (space == std::string_view::npos || space == 0 || space > 7) {
      return AtHeader(absl::StatusCode::kInvalidArgument, "has a pax record without length");
    }
    for (const char digit : records.substr(0, space)) {
      if (digit < '0' || digit > '9') {
        return AtHeader(absl::StatusCode::kInvalidArgument, "has a pax record with a broken length");
      }
      length = length * 10 + static_cast<uint64_t>(digit - '0');
    }
    if (length <= space + 2 || length > records.size() || records[length - 1] != '\n') {
      return AtHeader(absl::StatusCode::kInvalidArgument, "has a pax record of the wrong length");
    }
    const std::string_view body = records.substr(space + 1, length - space - 2);
    const size_t equals = body.find('=');
    if (equals == std::string_view::npos) {
      return AtHeader(absl::StatusCode::kInvalidArgument, "has a pax record without '='");
    }
    VLM_RETURN_IF_ERROR(SetPaxValue(body.substr(0, equals), body.substr(equals + 1)));
    records.remove_prefix(length);
  }
  return absl::OkStatus();
}

absl::Status Indexer::SetPaxValue(std::string_view key, std::string_view value) {
  if (key == "path") {
    overrides_.name = std::string(value);
  } else if (key == "size") {
    uint64_t bytes = 0;
    for (const char digit : value) {
      if (digit < '0' || digit > '9' || bytes >> 58 != 0) {
        return AtHeader(absl::StatusCode::kInvalidArgument, "has a pax size that is not a number");
      }
      bytes = bytes * 10 + static_cast<uint64_t>(digit - '0');
    }
    overrides_.bytes = bytes;
  } else if (key.starts_with("GNU.sparse.")) {
    return AtHeader(absl::StatusCode::kInvalidArgument, "has a sparse file; archive it without --sparse");
  }
  return absl::OkStatus();  // times, owners and the like do not matter
}

absl::Status Indexer::AddMember(char type, uint64_t bytes) {
  const std::string raw_name = overrides_.name.value_or(HeaderName());
  if (type == kFolder) {
    // A trailing '/' and "./" itself are usual here; a folder brings no data, so its name is not judged.
    return absl::OkStatus();
  }
  auto name = CheckTarName(raw_name);
  if (!name.ok()) {
    return AtHeader(absl::StatusCode::kInvalidArgument, absl::StrCat("has a bad member; ", name.status().message()));
  }
  if (type != kRegular && type != kRegularOld && type != kContiguous) {
    return AtHeader(absl::StatusCode::kInvalidArgument,
                    absl::StrCat("has a link, device or sparse file (type '", absl::CHexEscape(std::string(1, type)),
                                 "'); archive plain files: ", *name));
  }
  if (bytes > limits_.member_bytes_max) {
    return AtHeader(absl::StatusCode::kResourceExhausted,
                    absl::StrCat("has a member above the limit of ", limits_.member_bytes_max, " bytes: ", *name, ", ",
                                 bytes, " bytes"));
  }
  if (members_.size() >= limits_.members_max) {
    return AtHeader(absl::StatusCode::kResourceExhausted,
                    absl::StrCat("has more than ", limits_.members_max, " members; cut it into shards"));
  }
  members_.push_back({*std::move(name), position_, bytes});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TarMember>> Indexer::Run() {
  while (true) {
    VLM_ASSIGN_OR_RETURN(const bool more, NextHeader());
    if (!more) return std::move(members_);
    const auto type = static_cast<char>(block_[kTarType.offset]);
    const bool extension = type == kPax || type == kPaxGlobal || type == kGnuName || type == kGnuLink;
    std::optional<uint64_t> bytes = TarNumber(block_, kTarSize);
    if (!extension && overrides_.bytes.has_value()) bytes = overrides_.bytes;
    if (!bytes.has_value()) return Malformed("has a header with a broken size");
    if (*bytes > file_.size() - position_ || RoundUpToTarBlock(*bytes) > file_.size() - position_) {
      return Malformed(absl::StrCat("is cut short inside a member; copy it again or write it anew, member ",
                                    members_.size() + 1, ", ", Absl(absl::CHexEscape(HeaderName())), ", has ",
                                    file_.size() - position_, " of ", *bytes, " bytes"));
    }
    if (extension) {
      VLM_RETURN_IF_ERROR(ReadExtension(type, *bytes));
    } else {
      VLM_RETURN_IF_ERROR(AddMember(type, *bytes));
      overrides_ = {};
    }
    position_ += RoundUpToTarBlock(*bytes);
  }
}

}  // namespace

absl::StatusOr<std::vector<TarMember>> IndexTar(const ReadableFile& file, std::string_view file_name,
                                                const TarLimits& limits) {
  return Indexer(file, file_name, limits).Run();
}

absl::StatusOr<std::string> ReadTarMember(const ReadableFile& file, std::string_view file_name,
                                          const TarMember& member) {
  std::string contents(member.bytes, '\0');
  const absl::Status read = file.ReadAt(member.offset, std::as_writable_bytes(std::span(contents)));
  if (absl::IsOutOfRange(read)) {
    return absl::DataLossError(absl::StrCat("tar archive has become shorter than its index; index it again: ",
                                            Absl(file_name), ", offset ", member.offset, ", bytes ", member.bytes));
  }
  VLM_RETURN_IF_ERROR(Annotate(read, absl::StrCat("reading tar member of ", Absl(file_name))));
  return contents;
}

}  // namespace vlm::data
