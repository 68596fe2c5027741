#include "data/indexer.h"

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "data/conversation.h"
#include "data/image/image.h"
#include "data/record_file.h"

namespace vlm::data {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

absl::Status CheckPictures(const ReadableFile& file, const RecordPlace& place) {
  constexpr DecodeLimits kLimits;
  for (const Span& span : place.images) {
    if (span.bytes > kLimits.bytes_max) {
      return absl::ResourceExhaustedError(absl::StrCat("picture file is larger than allowed; shrink it: ", span.bytes,
                                                       " bytes, limit ", kLimits.bytes_max));
    }
    VLM_ASSIGN_OR_RETURN(const std::string encoded, ReadSpan(file, span));
    VLM_RETURN_IF_ERROR(DecodeImage(std::as_bytes(std::span(encoded.data(), encoded.size())), kLimits).status());
  }
  return absl::OkStatus();
}

// The sample's lengths, or why it is rejected.
absl::StatusOr<SampleRecord> Measure(const ReadableFile& file, const RecordPlace& place, const RenderSettings& render,
                                     const ChatTemplate& chat_template) {
  VLM_ASSIGN_OR_RETURN(const std::string json, ReadSpan(file, place.json));
  VLM_ASSIGN_OR_RETURN(const Conversation conversation, ParseConversation(json, static_cast<int>(place.images.size())));
  if (!place.images.empty() && render.image_tokens == 0) {
    return absl::InvalidArgumentError("sample has a picture, but the index has no image settings");
  }
  VLM_RETURN_IF_ERROR(CheckPictures(file, place));
  VLM_ASSIGN_OR_RETURN(Sample sample, chat_template.Render(conversation, {.image_tokens = render.image_tokens}));
  const int64_t dropped = Truncate(&sample, render.context);
  if (sample.targets() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no target is left after cutting ", dropped, " positions to the context of ", render.context));
  }
  SampleRecord record{};
  record.json_offset = place.json.offset;
  record.json_bytes = place.json.bytes;
  record.tokens = static_cast<uint32_t>(sample.tokens());
  record.targets = static_cast<uint32_t>(sample.targets());
  record.images = static_cast<uint32_t>(place.images.size());
  return record;
}

}  // namespace

absl::StatusOr<std::string> FileDigest(const ReadableFile& file, const std::function<void()>& advance) {
  Sha256 sha;
  std::string buffer;
  for (uint64_t offset = 0; offset < file.size(); offset += kReadBytes) {
    buffer.resize(std::min(kReadBytes, file.size() - offset));
    VLM_RETURN_IF_ERROR(file.ReadAt(offset, std::as_writable_bytes(std::span(buffer.data(), buffer.size()))));
    sha.Update(std::string_view(buffer));
    advance();
  }
  return sha.Finish().Hex();
}

absl::StatusOr<FileIndex> IndexFile(FileSystem* files, const DataFile& data_file, const RenderSettings& render,
                                    const ChatTemplate& chat_template, const std::function<void()>& advance) {
  const std::string& path = data_file.path;
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files->Open(path));
  VLM_ASSIGN_OR_RETURN(const std::vector<RecordPlace> places, ListRecords(path, *file));
  FileIndex index;
  index.ordinal = data_file.ordinal;
  VLM_ASSIGN_OR_RETURN(std::string digest, FileDigest(*file, advance));
  index.file = {path, file->size(), std::move(digest), data_file.source};
  for (const RecordPlace& place : places) {
    absl::StatusOr<SampleRecord> record = Measure(*file, place, render, chat_template);
    advance();
    if (!record.ok()) {
      ++index.rejected_count;
      if (index.rejected.size() < Manifest::kRejectedKept) {
        index.rejected.push_back({path, place.line, std::string(record.status().message())});
      }
      continue;
    }
    record->first_image = static_cast<uint32_t>(index.images.size());
    for (const Span& image : place.images) index.images.push_back({image.offset, image.bytes, 0});
    index.samples.push_back(*record);
  }
  return index;
}

absl::Status ForEachText(FileSystem* files, const std::string& path,
                         const std::function<void(std::string_view)>& visit) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files->Open(path));
  VLM_ASSIGN_OR_RETURN(const std::vector<RecordPlace> places, ListRecords(path, *file));
  for (const RecordPlace& place : places) {
    VLM_ASSIGN_OR_RETURN(const std::string json, ReadSpan(*file, place.json));
    const absl::StatusOr<Conversation> conversation = ParseConversation(json, static_cast<int>(place.images.size()));
    if (!conversation.ok()) return Annotate(conversation.status(), absl::StrCat(path, ":", place.line));
    if (!conversation->text.empty()) visit(conversation->text);
    for (const Message& message : conversation->messages) {
      visit(RoleName(message.role));
      for (const ContentPart& part : message.content) {
        if (part.kind == ContentPart::Kind::kText) visit(part.text);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace vlm::data
