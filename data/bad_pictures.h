// Pictures that do not decode, and records that cannot be used: the rule for the first, the list that names both.
#ifndef VLM_DATA_BAD_PICTURES_H_
#define VLM_DATA_BAD_PICTURES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vlm::data {

enum class BadPicturePolicy {
  kFail,         // one is enough to end the stage
  kDrop,         // its sample is left out; one found after planning keeps its place and loses its target weights
  kPlaceholder,  // its sample stays, with pixels of the mean colour (0 after normalisation)
};
// "fail", "drop", "placeholder": as job files and manifests name it.
std::string_view BadPicturePolicyName(BadPicturePolicy policy);
std::optional<BadPicturePolicy> BadPicturePolicyOf(std::string_view name);

struct BadPictureRule {
  BadPicturePolicy policy = BadPicturePolicy::kFail;
  double share_max = 0;  // of the pictures of one source, 0 to 1; above it the stage fails. Without meaning for kFail

  // Whether `bad` of `pictures` are more than the rule allows.
  bool TooMany(uint64_t bad, uint64_t pictures) const;
  friend bool operator==(const BadPictureRule&, const BadPictureRule&) = default;
};

// A record or a picture that is not used as it is, and why.
struct Quarantined {
  std::string source;
  std::string file;
  uint64_t record = 0;  // of a JSON-lines file its line, of a tar the record's number; both from 1
  std::string member;   // of a tar: the member's name; else empty
  uint64_t offset = 0;  // of the record's JSON, or of the picture, in the file
  bool picture = false;
  std::string action;  // "rejected" (a record), else what the policy did: "fail", "drop", "placeholder"
  std::string reason;
};

// "/data/a.tar: record 3, member 000002.jpg at offset 1536: PNG is broken...".
std::string PlaceAndReason(const Quarantined& one);

// The first entries of a list that grows while data are read, so that it stays within memory.
class QuarantineList {
 public:
  // Kept however many entries stand before them: a message that says that too many pictures are bad must name some.
  static constexpr size_t kPicturesKept = 100;

  explicit QuarantineList(size_t max) : max_(max) {}
  // `one` is left out when there are `max` entries, unless it is among the first kPicturesKept pictures.
  void Add(Quarantined one);
  const std::vector<Quarantined>& entries() const { return entries_; }

 private:
  size_t max_;
  size_t pictures_ = 0;  // among the entries
  std::vector<Quarantined> entries_;
};

// The first few of `list`, or of its pictures, and how many of `total` come after them; joined by "; ".
std::string FirstOf(const std::vector<Quarantined>& list, bool pictures_only, uint64_t total);

// quarantine.jsonl (data/FORMAT.md): one JSON object a line.
std::string QuarantineLines(const std::vector<Quarantined>& list);

}  // namespace vlm::data

#endif  // VLM_DATA_BAD_PICTURES_H_
