// The index of a data set: which samples there are and how long each is, so that order, packing and resume
// need no data file. Format: data/FORMAT.md.
#ifndef VLM_DATA_MANIFEST_H_
#define VLM_DATA_MANIFEST_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "data/bad_pictures.h"
#include "data/record_file.h"

namespace vlm::data {

// One sample, as stored: 32 bytes, little-endian.
struct SampleRecord {
  uint64_t json_offset;
  uint32_t json_bytes;
  uint32_t file;
  uint32_t tokens;
  uint32_t targets;
  uint32_t first_image;  // into the image table
  uint32_t images;
};
static_assert(sizeof(SampleRecord) == 32);

// One picture's place in its sample's file: 16 bytes, little-endian.
struct ImageRecord {
  uint64_t offset;
  uint32_t bytes;
  uint32_t flags;
};
// It did not decode when it was indexed: a placeholder stands for it, and nobody tries again.
inline constexpr uint32_t kBadPictureFlag = 1;
static_assert(sizeof(ImageRecord) == 16);

struct ManifestFile {
  std::string path;  // absolute
  uint64_t bytes = 0;
  std::string digest;  // hex SHA-256
  std::string source;
};

struct ManifestSource {
  std::string name;
  uint64_t first = 0;  // samples of a source are adjacent
  uint64_t samples = 0;
  uint64_t rejected = 0;      // records that are no samples: without a target, or with a bad picture that was dropped
  uint64_t pictures = 0;      // decoded or tried, the bad ones too
  uint64_t bad_pictures = 0;  // did not decode
};

// What was used to render; a run with other settings refuses the manifest.
struct RenderSettings {
  std::string tokenizer_digest;  // hex SHA-256 of tokenizer.json
  std::string chat_template;
  int32_t image_size = 0;
  int32_t image_tokens = 0;
  int32_t context = 0;
  friend bool operator==(const RenderSettings&, const RenderSettings&) = default;
};

struct Manifest {
  RenderSettings render;
  std::vector<ManifestFile> files;
  std::vector<ManifestSource> sources;
  std::vector<SampleRecord> samples;
  std::vector<ImageRecord> images;
  BadPictureRule bad_pictures;  // of training too: for pictures that have gone bad since
  // A QuarantineList of each source, which divide kQuarantinedMax evenly; kept in a file of its own, not read back.
  std::vector<Quarantined> quarantined;

  static constexpr size_t kQuarantinedMax = 100'000;  // about 30 MiB of quarantine.jsonl

  const ManifestSource* FindSource(std::string_view name) const;  // nullptr when absent
};

// Four files: manifest.json (everything but the tables), samples.bin, images.bin, quarantine.jsonl (for people).
inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kSamplesFile[] = "samples.bin";
inline constexpr char kImagesFile[] = "images.bin";
inline constexpr char kQuarantineFile[] = "quarantine.jsonl";

struct ManifestBytes {
  std::string json, samples, images, quarantine;
};
ManifestBytes EncodeManifest(const Manifest& manifest);

// Reads and checks a manifest folder. INVALID_ARGUMENT names the file and what is inconsistent (table sizes, records
// outside their tables); FAILED_PRECONDITION a manifest of another version.
absl::StatusOr<Manifest> ReadManifest(FileSystem* files, const std::string& folder);

// What indexing one file yields; made by any rank, merged by the finish task.
struct FileIndex {
  ManifestFile file;
  uint64_t ordinal = 0;               // place in the stage's list of files, the same for whoever indexes
  std::vector<SampleRecord> samples;  // `file` and `first_image` are relative to this index
  std::vector<ImageRecord> images;
  uint64_t rejected = 0, pictures = 0, bad_pictures = 0;  // as of ManifestSource
  std::vector<Quarantined> quarantined;                   // a QuarantineList of kQuarantinedMax

  static constexpr size_t kQuarantinedMax = 10'000;
};
std::string EncodeFileIndexes(const std::vector<FileIndex>& indexes);
absl::StatusOr<std::vector<FileIndex>> DecodeFileIndexes(std::string_view bytes);

// Orders by (source as listed, ordinal), so that the result does not depend on who indexed what. Not by path: that of a
// generated file names the attempt and the lease that made it, and a restarted stage has files of several attempts.
// The rule is the caller's to set.
Manifest MergeIndexes(RenderSettings render, const std::vector<std::string>& sources, std::vector<FileIndex> indexes);

}  // namespace vlm::data

#endif  // VLM_DATA_MANIFEST_H_
