// A tar shard from its bytes to its samples: index, grouping, every part read; and the same file as records.
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/simulated_file_system.h"
#include "data/record_file.h"
#include "data/tar/tar_reader.h"
#include "data/tar/tar_writer.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/memory_file.h"

namespace vlm::data {
namespace {

constexpr size_t kHeaderBytes = 512, kChecksumAt = 148, kChecksumBytes = 8;

// With the checksum of every 512-byte block that claims to be a header put right, so that changes elsewhere in it are
// looked at.
std::string WithChecksums(std::string bytes) {
  for (size_t at = 0; at + kHeaderBytes <= bytes.size(); at += kHeaderBytes) {
    if (bytes.compare(at + 257, 5, "ustar") != 0) continue;
    for (size_t i = 0; i < kChecksumBytes; ++i) bytes[at + kChecksumAt + i] = ' ';
    unsigned sum = 0;
    for (size_t i = 0; i < kHeaderBytes; ++i) sum += static_cast<unsigned char>(bytes[at + i]);
    for (size_t digit = 0; digit < 6; ++digit, sum /= 8) {
      bytes[at + kChecksumAt + 5 - digit] = static_cast<char>('0' + sum % 8);
    }
    bytes[at + kChecksumAt + 6] = '\0';
  }
  return bytes;
}

void Read(const std::string& bytes) {
  const fuzz::MemoryFile file(bytes);
  const TarLimits limits{.member_bytes_max = 1 << 20, .members_max = 1000};
  const absl::StatusOr<std::vector<TarMember>> members = IndexTar(file, "shard.tar", limits);
  if (!members.ok()) {
    VLM_CHECK(members.status().message().find("shard.tar") != absl::string_view::npos, "an error names no file");
    return;
  }
  uint64_t end = 0;
  for (const TarMember& member : *members) {
    VLM_CHECK(member.offset >= end && member.offset + member.bytes <= bytes.size(),
              "members overlap or leave the file");
    end = member.offset + member.bytes;
    VLM_CHECK(!member.name.empty() && member.name.front() != '/' && member.name.find("..") != 0,
              "a name leads outside");
    const absl::StatusOr<std::string> contents = ReadTarMember(file, "shard.tar", member);
    VLM_CHECK(contents.ok() && contents->size() == member.bytes, "an indexed member cannot be read");
  }
  const absl::StatusOr<std::vector<TarSample>> samples = GroupSamples(*members, "shard.tar");
  if (samples.ok()) {
    size_t parts = 0;
    for (const TarSample& sample : *samples) parts += sample.parts.size();
    VLM_CHECK(parts == members->size(), "a member belongs to no sample");
  }
  const absl::StatusOr<std::vector<RecordPlace>> records = ListRecords("/shard.tar", file);
  if (!records.ok()) return;
  for (const RecordPlace& record : *records) {
    VLM_CHECK(ReadSpan(file, record.json).ok(), "a record's JSON cannot be read");
    for (const Span& image : record.images) VLM_CHECK(ReadSpan(file, image).ok(), "a record's picture cannot be read");
  }
}

std::string Shard(const std::map<std::string, std::string>& members) {
  SimulatedFileSystem files;
  absl::StatusOr<std::unique_ptr<WritableFile>> file = files.Create("/shard.tar");
  VLM_CHECK(file.ok(), file.status().ToString());
  TarWriter writer(file->get());
  for (const auto& [name, contents] : members) {
    const absl::Status appended = writer.Append(name, std::string_view(contents));
    VLM_CHECK(appended.ok(), appended.ToString());
  }
  VLM_CHECK(writer.Finish().ok(), "cannot finish a shard");
  absl::StatusOr<std::string> bytes = ReadFile(&files, "/shard.tar", 1 << 20);
  VLM_CHECK(bytes.ok(), bytes.status().ToString());
  return *std::move(bytes);
}

// A pax record: its length counts itself.
std::string PaxRecord(const std::string& record) { return std::to_string(record.size() + 3) + " " + record; }

}  // namespace
}  // namespace vlm::data

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  vlm::data::Read(bytes);
  vlm::data::Read(vlm::data::WithChecksums(bytes));
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  using vlm::data::PaxRecord;
  using vlm::data::Shard;
  std::string pax = Shard({{"a/1.json", PaxRecord("path=b/2.json\n")}, {"b", "{}"}});
  pax[156] = 'x';  // the type of the first header: a pax record of the next member
  std::string long_name = Shard({{"a", "train/" + std::string(120, 'n') + ".json"}, {"b", "{}"}});
  long_name[156] = 'L';  // GNU's long name
  return {Shard({}), Shard({{"train/1.jpg", "picture"}, {"train/1.json", R"({"text": "a"})"}, {"train/2.json", "{}"}}),
          pax,       long_name,
          "",        std::string(1024, '\0')};
}
