// Seeded texts that tokenizer tests train on and encode.
#ifndef VLM_TESTS_UNIT_TOKENIZER_CORPORA_H_
#define VLM_TESTS_UNIT_TOKENIZER_CORPORA_H_

#include <string>
#include <vector>

#include "base/random.h"

namespace vlm::data {

using Documents = std::vector<std::string>;

void AppendUtf8(uint32_t code_point, std::string* text);

Documents EnglishLikeText(RngKey key, int documents);
Documents ChineseLikeText(RngKey key, int documents);
Documents EmojiText(RngKey key, int documents);
Documents SourceCode();                           // this module's own sources
Documents FewLetters(RngKey key, int documents);  // words over a, b and c: many ways to build one string

// Strings of characters that the split patterns treat differently, and of any others.
Documents NastyStrings(RngKey key, int count);

}  // namespace vlm::data

#endif  // VLM_TESTS_UNIT_TOKENIZER_CORPORA_H_
