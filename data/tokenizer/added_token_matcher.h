// Finds added tokens in a text.
#ifndef VLM_DATA_TOKENIZER_ADDED_TOKEN_MATCHER_H_
#define VLM_DATA_TOKENIZER_ADDED_TOKEN_MATCHER_H_

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "data/tokenizer/byte_pair_model.h"

namespace vlm::data {

// Immutable, thread-safe. Tokens come in two groups, as in `tokenizers`: those of group 0 (not normalized)
// are cut out of the text first, those of group 1 out of what is left.
class AddedTokenMatcher {
 public:
  static constexpr int kGroups = 2;

  struct Match {
    size_t begin = 0;
    size_t end = 0;
    const AddedToken* token = nullptr;
  };

  // `tokens` must outlive the matcher.
  explicit AddedTokenMatcher(const std::vector<AddedToken>& tokens);

  bool HasOnlySpecial(int group) const { return groups_[group].only_special; }
  // The first match at or after `from`, the longest of those that begin there.
  std::optional<Match> Find(int group, std::string_view text, size_t from) const;
  // The token whose content is all of `content`; nullptr when there is none.
  const AddedToken* FindExact(std::string_view content) const;

 private:
  struct Group {
    std::array<std::vector<const AddedToken*>, 256> by_first_byte;  // longest first
    std::vector<char> first_bytes;
    bool only_special = true;
  };

  std::array<Group, kGroups> groups_;
};

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_ADDED_TOKEN_MATCHER_H_
