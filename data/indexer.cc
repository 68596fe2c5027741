#include "data/indexer.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "data/conversation.h"
#include "data/image/image.h"
#include "data/record_file.h"

namespace vlm::data {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

// OK when it decodes; RESOURCE_EXHAUSTED above a limit. Errors of reading the file go to `read`. Resizing, the other
// half of what training does, cannot fail within these limits.
absl::Status CheckPicture(const ReadableFile& file, const Span& span, absl::Status* read) {
  constexpr DecodeLimits kLimits;
  if (span.bytes > kLimits.bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("picture file is larger than allowed; shrink it: ", span.bytes,
                                                     " bytes, limit ", kLimits.bytes_max));
  }
  const absl::StatusOr<std::string> encoded = ReadSpan(file, span);
  *read = encoded.status();
  if (!encoded.ok()) return absl::OkStatus();
  return DecodeImage(std::as_bytes(std::span(encoded->data(), encoded->size())), kLimits).status();
}

// The sample's lengths, or why the record is none.
absl::StatusOr<SampleRecord> Measure(const std::string& json, const RecordPlace& place, const RenderSettings& render,
                                     const ChatTemplate& chat_template) {
  VLM_ASSIGN_OR_RETURN(const Conversation conversation, ParseConversation(json, static_cast<int>(place.images.size())));
  if (!place.images.empty() && render.image_tokens == 0) {
    return absl::InvalidArgumentError("sample has a picture, but the index has no image settings");
  }
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

// One file on its way into an index.
class FileIndexer {
 public:
  FileIndexer(const ReadableFile& file, const IndexOptions& options, const ChatTemplate& chat_template,
              FileIndex* index)
      : file_(file), options_(options), chat_template_(chat_template), index_(*index) {}

  // Fails only when the file cannot be read.
  absl::Status Add(const RecordPlace& place) {
    std::string json;
    if (place.json.bytes <= kRecordBytesMax) {
      VLM_ASSIGN_OR_RETURN(json, ReadSpan(file_, place.json));
    }
    absl::StatusOr<SampleRecord> record =
        json.size() == place.json.bytes
            ? Measure(json, place, options_.render, chat_template_)
            : absl::InvalidArgumentError(absl::StrCat("record is larger than 4 MiB: ", place.json.bytes, " bytes"));
    if (!record.ok()) {
      Quarantine(place, std::nullopt, record.status());
      ++index_.rejected;
      return absl::OkStatus();
    }
    std::vector<ImageRecord> images;
    bool dropped = false;
    for (size_t i = 0; i < place.images.size(); ++i) {
      absl::Status read;
      const absl::Status decoded = CheckPicture(file_, place.images[i], &read);
      VLM_RETURN_IF_ERROR(read);
      images.push_back({place.images[i].offset, place.images[i].bytes, decoded.ok() ? 0 : kBadPictureFlag});
      ++index_.pictures;
      if (decoded.ok()) continue;
      ++index_.bad_pictures;
      Quarantine(place, i, decoded);
      dropped = options_.on_bad_picture == BadPicturePolicy::kDrop;
    }
    if (dropped) {
      ++index_.rejected;
      return absl::OkStatus();
    }
    record->first_image = static_cast<uint32_t>(index_.images.size());
    index_.images.insert(index_.images.end(), images.begin(), images.end());
    index_.samples.push_back(*record);
    return absl::OkStatus();
  }

  const std::vector<Quarantined>& quarantined() const { return quarantined_.entries(); }

 private:
  void Quarantine(const RecordPlace& place, std::optional<size_t> image, const absl::Status& why) {
    quarantined_.Add(
        {index_.file.source, index_.file.path, place.line, image ? place.ImageMember(*image) : place.JsonMember(),
         image ? place.images[*image].offset : place.json.offset, image.has_value(),
         image ? std::string(BadPicturePolicyName(options_.on_bad_picture)) : "rejected", std::string(why.message())});
  }

  const ReadableFile& file_;
  const IndexOptions& options_;
  const ChatTemplate& chat_template_;
  FileIndex& index_;
  QuarantineList quarantined_{FileIndex::kQuarantinedMax};
};

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

absl::StatusOr<FileIndex> IndexFile(FileSystem* files, const DataFile& data_file, const IndexOptions& options,
                                    const ChatTemplate& chat_template, const std::function<void()>& advance) {
  const std::string& path = data_file.path;
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files->Open(path));
  VLM_ASSIGN_OR_RETURN(const std::vector<RecordPlace> places, ListRecords(path, *file));
  FileIndex index;
  index.ordinal = data_file.ordinal;
  VLM_ASSIGN_OR_RETURN(std::string digest, FileDigest(*file, advance));
  index.file = {path, file->size(), std::move(digest), data_file.source};
  FileIndexer indexer(*file, options, chat_template, &index);
  for (const RecordPlace& place : places) {
    VLM_RETURN_IF_ERROR(indexer.Add(place));
    advance();
  }
  index.quarantined = indexer.quarantined();
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
