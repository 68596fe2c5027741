#include "checkpoint/format/chunk_sums.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::checkpoint {
namespace {

constexpr std::string_view kMagic = "vlm-sum 1";

// The next line without its newline; nothing when there is no newline left.
std::optional<std::string_view> TakeLine(std::string_view* text) {
  const size_t end = text->find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text->substr(0, end);
  text->remove_prefix(end + 1);
  return line;
}

// The value of a line "<name> <value>".
std::optional<std::string_view> TakeField(std::string_view* text, std::string_view name) {
  std::optional<std::string_view> line = TakeLine(text);
  if (!line.has_value() || !line->starts_with(name)) return std::nullopt;
  line->remove_prefix(name.size());
  if (!line->starts_with(' ')) return std::nullopt;
  line->remove_prefix(1);
  return line;
}

std::optional<uint64_t> TakeNumber(std::string_view* text, std::string_view name) {
  const std::optional<std::string_view> value = TakeField(text, name);
  uint64_t number = 0;
  if (!value.has_value()) return std::nullopt;
  const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
  if (error != std::errc() || end != value->data() + value->size()) return std::nullopt;
  return number;
}

}  // namespace

Digest ChunkSums::FileDigest() const {
  Sha256 sha;
  for (const Digest& chunk : chunks) sha.Update(std::as_bytes(std::span(chunk.bytes)));
  return sha.Finish();
}

std::string SerializeChunkSums(const ChunkSums& sums) {
  std::string text(kMagic);
  absl::StrAppend(&text, "\nbytes ", sums.bytes, "\nchunk_bytes ", kChunkBytes, "\ndigest ", sums.FileDigest().Hex(),
                  "\n");
  for (const Digest& chunk : sums.chunks) absl::StrAppend(&text, chunk.Hex(), "\n");
  return text;
}

absl::StatusOr<ChunkSums> ParseChunkSums(std::string_view contents) {
  const std::optional<std::string_view> magic = TakeLine(&contents);
  if (magic != kMagic) return absl::InvalidArgumentError("sum file does not begin with \"vlm-sum 1\"");
  const std::optional<uint64_t> bytes = TakeNumber(&contents, "bytes");
  if (!bytes.has_value()) return absl::InvalidArgumentError("sum file lacks its line \"bytes N\"");
  const std::optional<uint64_t> chunk_bytes = TakeNumber(&contents, "chunk_bytes");
  if (chunk_bytes != kChunkBytes) {
    return absl::InvalidArgumentError(absl::StrCat("sum file lacks its line \"chunk_bytes ", kChunkBytes, "\""));
  }
  const std::optional<std::string_view> digest = TakeField(&contents, "digest");
  if (!digest.has_value()) return absl::InvalidArgumentError("sum file lacks its line \"digest HEX\"");
  ChunkSums sums;
  sums.bytes = *bytes;
  const uint64_t count = *bytes / kChunkBytes + (*bytes % kChunkBytes != 0 ? 1 : 0);
  constexpr uint64_t kLineBytes = 65;
  if (contents.size() != count * kLineBytes) {
    return absl::InvalidArgumentError(absl::StrCat("sum file must hold one line for each of its chunks: ", count));
  }
  for (uint64_t i = 0; i < count; ++i) {
    const std::optional<std::string_view> line = TakeLine(&contents);
    absl::StatusOr<Digest> chunk = Digest::FromHex(line.value_or(""));
    if (!chunk.ok()) return Annotate(chunk.status(), absl::StrCat("sum file, chunk ", i));
    sums.chunks.push_back(*chunk);
  }
  if (sums.FileDigest().Hex() != *digest)
    return absl::InvalidArgumentError("sum file's digest does not match its chunks");
  return sums;
}

std::string ChunkName(uint64_t chunk, uint64_t file_bytes) {
  const uint64_t begin = chunk * kChunkBytes, end = std::min(begin + kChunkBytes, file_bytes);
  return absl::StrCat("chunk ", chunk, " (bytes ", begin, " to ", end == begin ? begin : end - 1, ")");
}

void ChunkHasher::Update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t taken = std::min<uint64_t>(bytes.size(), kChunkBytes - chunk_bytes_);
    chunk_->Update(bytes.first(taken));
    chunk_bytes_ += taken;
    sums_.bytes += taken;
    bytes = bytes.subspan(taken);
    if (chunk_bytes_ == kChunkBytes) EndChunk();
  }
}

ChunkSums ChunkHasher::Finish() {
  if (chunk_bytes_ > 0) EndChunk();
  return std::move(sums_);
}

void ChunkHasher::EndChunk() {
  sums_.chunks.push_back(chunk_->Finish());
  chunk_ = std::make_unique<Sha256>();
  chunk_bytes_ = 0;
}

}  // namespace vlm::checkpoint
