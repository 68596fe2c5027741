#include "data/bad_pictures.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::data {
namespace {

constexpr size_t kNamedMax = 5;  // in one message; the list has all

}  // namespace

std::string_view BadPicturePolicyName(BadPicturePolicy policy) {
  switch (policy) {
    case BadPicturePolicy::kFail:
      return "fail";
    case BadPicturePolicy::kDrop:
      return "drop";
    case BadPicturePolicy::kPlaceholder:
      return "placeholder";
  }
  return "fail";
}

std::optional<BadPicturePolicy> BadPicturePolicyOf(std::string_view name) {
  for (const BadPicturePolicy policy :
       {BadPicturePolicy::kFail, BadPicturePolicy::kDrop, BadPicturePolicy::kPlaceholder}) {
    if (name == BadPicturePolicyName(policy)) return policy;
  }
  return std::nullopt;
}

bool BadPictureRule::TooMany(uint64_t bad, uint64_t pictures) const {
  if (policy == BadPicturePolicy::kFail) return bad > 0;
  return static_cast<double>(bad) > share_max * static_cast<double>(pictures);
}

void QuarantineList::Add(Quarantined one) {
  if (entries_.size() >= max_ && !(one.picture && pictures_ < kPicturesKept)) return;
  if (one.picture) ++pictures_;
  entries_.push_back(std::move(one));
}

std::string PlaceAndReason(const Quarantined& one) {
  return absl::StrCat(one.file, ": record ", one.record, one.member.empty() ? "" : ", member ", one.member,
                      " at offset ", one.offset, ": ", one.reason);
}

std::string FirstOf(const std::vector<Quarantined>& list, bool pictures_only, uint64_t total) {
  std::string text;
  size_t named = 0;
  for (const Quarantined& one : list) {
    if (pictures_only && !one.picture) continue;
    if (named == kNamedMax) break;
    absl::StrAppend(&text, named++ == 0 ? "" : "; ", PlaceAndReason(one));
  }
  if (total > named) absl::StrAppend(&text, "; and ", total - named, " more");
  return text;
}

std::string QuarantineLines(const std::vector<Quarantined>& list) {
  using Json = nlohmann::ordered_json;
  std::string lines;
  for (const Quarantined& one : list) {
    Json json = {{"source", one.source}, {"file", one.file}, {"record", one.record}};
    if (!one.member.empty()) json["member"] = one.member;
    json["offset"] = one.offset;
    json["what"] = one.picture ? "picture" : "record";
    json["action"] = one.action;
    json["reason"] = one.reason;
    // A member's name or a parser's words may hold bytes that are not UTF-8.
    lines += json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  return lines;
}

}  // namespace vlm::data
