#include "data/tokenizer/added_token_matcher.h"

#include <algorithm>
#include <string>

namespace vlm::data {

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) {
    Group& group = groups_[token.normalized ? 1 : 0];
    auto& same_first = group.by_first_byte[static_cast<uint8_t>(token.content[0])];
    if (same_first.empty()) group.first_bytes.push_back(token.content[0]);
    same_first.push_back(&token);
    if (!token.special) group.only_special = false;
  }
  for (Group& group : groups_) {
    for (auto& same_first : group.by_first_byte) {
      std::stable_sort(same_first.begin(), same_first.end(),
                       [](const AddedToken* a, const AddedToken* b) { return a->content.size() > b->content.size(); });
    }
  }
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::Find(int group, std::string_view text, size_t from) const {
  const Group& tokens = groups_[group];
  if (tokens.first_bytes.empty()) return std::nullopt;
  for (size_t at = from; at < text.size(); ++at) {
    if (tokens.first_bytes.size() == 1) {
      at = text.find(tokens.first_bytes[0], at);
      if (at == std::string_view::npos) return std::nullopt;
    }
    for (const AddedToken* token : tokens.by_first_byte[static_cast<uint8_t>(text[at])]) {
      if (text.compare(at, token->content.size(), token->content) == 0) {
        return Match{at, at + token->content.size(), token};
      }
    }
  }
  return std::nullopt;
}

const AddedToken* AddedTokenMatcher::FindExact(std::string_view content) const {
  if (content.empty()) return nullptr;
  for (const Group& group : groups_) {
    for (const AddedToken* token : group.by_first_byte[static_cast<uint8_t>(content[0])]) {
      if (token->content == content) return token;
    }
  }
  return nullptr;
}

}  // namespace vlm::data
