// Reads tar archives (ustar, pax, GNU long names) by index: headers are read once, contents on demand.
//
// The reader is strict, because a shard that lost its tail or repeats a key would otherwise only show as a
// slightly worse model. All functions are thread-safe when the file is.
#ifndef VLM_DATA_TAR_TAR_READER_H_
#define VLM_DATA_TAR_TAR_READER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"

namespace vlm::data {

struct TarLimits {
  uint64_t member_bytes_max = uint64_t{1} << 30;
  uint64_t members_max = 4'000'000;  // about 1 GiB of index
};

struct TarMember {
  std::string name;     // normalised: no leading "./"
  uint64_t offset = 0;  // of the first byte of the contents in the archive
  uint64_t bytes = 0;
};

// Regular files in archive order; folders are left out, they carry nothing. Contents are not read.
// DATA_LOSS for an archive that is cut short (also one without the end mark), a wrong header checksum, or data
// after the end mark; INVALID_ARGUMENT for an absolute name, "..", control characters, a link, device or sparse
// file, a malformed pax record; RESOURCE_EXHAUSTED beyond a limit. Every message names `file_name` and the
// offset of the header.
absl::StatusOr<std::vector<TarMember>> IndexTar(const ReadableFile& file, std::string_view file_name,
                                                const TarLimits& limits = {});

// The member's bytes; DATA_LOSS naming `file_name` and offset when the file has become shorter since.
absl::StatusOr<std::string> ReadTarMember(const ReadableFile& file, std::string_view file_name,
                                          const TarMember& member);

// One sample of a WebDataset shard: consecutive members whose names are equal up to the first '.' of the last
// path part.
struct TarSamplePart {
  std::string extension;  // after that '.', lower case: "jpg", "json", "seg.png"
  uint64_t offset = 0;
  uint64_t bytes = 0;
};
struct TarSample {
  std::string key;                   // path and stem, as "train/000017"
  std::vector<TarSamplePart> parts;  // in archive order, extensions distinct

  // Null when the sample has no such part. The pointer lives as long as this sample.
  const TarSamplePart* Find(std::string_view extension) const;
};

// INVALID_ARGUMENT for a member without stem or extension, an extension that repeats within a sample, and a key
// that comes back after another key; the message names `file_name`, member and offset.
absl::StatusOr<std::vector<TarSample>> GroupSamples(const std::vector<TarMember>& members, std::string_view file_name);

// IndexTar and GroupSamples.
absl::StatusOr<std::vector<TarSample>> IndexSamples(const ReadableFile& file, std::string_view file_name,
                                                    const TarLimits& limits = {});

// The bytes of one part; as ReadTarMember.
absl::StatusOr<std::string> ReadSamplePart(const ReadableFile& file, std::string_view file_name,
                                           const TarSamplePart& part);

}  // namespace vlm::data

#endif  // VLM_DATA_TAR_TAR_READER_H_
