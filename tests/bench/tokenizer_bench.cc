// Times byte-pair training and encoding; tokenizer_bench.py runs it beside the reference and prints ratios.
//
//   tokenizer_bench train PATTERN VOCAB_SIZE CORPUS TOKENIZER_JSON   prints "COUNT_SECONDS MERGE_SECONDS"
//   tokenizer_bench encode TOKENIZER_JSON CORPUS                     prints "SECONDS IDS DIGEST"
//
// A corpus is a file of documents with a zero byte between two. DIGEST is an FNV-1a of all ids.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/file_system.h"
#include "data/tokenizer/tokenizer.h"

namespace vlm::data {
namespace {

constexpr uint64_t kCorpusBytesMax = uint64_t{4} << 30;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string Read(const char* path) {
  auto contents = ReadFile(PosixFileSystem(), path, kCorpusBytesMax);
  VLM_CHECK(contents.ok(), contents.status().ToString());
  return *std::move(contents);
}

std::vector<std::string_view> Documents(std::string_view corpus) {
  std::vector<std::string_view> documents;
  while (true) {
    const size_t end = corpus.find('\0');
    documents.push_back(corpus.substr(0, end));
    if (end == std::string_view::npos) return documents;
    corpus.remove_prefix(end + 1);
  }
}

void Train(char** arguments) {
  const auto pattern = PatternFromName(arguments[0]);
  VLM_CHECK(pattern.ok(), pattern.status().ToString());
  const std::string corpus = Read(arguments[2]);
  const auto start = std::chrono::steady_clock::now();
  WordCounts counts(*pattern);
  for (std::string_view document : Documents(corpus)) counts.Add(document);
  const double count_seconds = SecondsSince(start);
  BytePairOptions options;
  options.vocab_size = std::atoi(arguments[1]);
  options.special_tokens = {"<|endoftext|>"};
  auto model = TrainBytePair(counts, options);
  VLM_CHECK(model.ok(), model.status().ToString());
  const double merge_seconds = SecondsSince(start) - count_seconds;
  const auto tokenizer = Tokenizer::Create(*std::move(model));
  VLM_CHECK(tokenizer.ok(), tokenizer.status().ToString());
  const absl::Status written = WriteFileDurably(PosixFileSystem(), arguments[3], (*tokenizer)->ToJson());
  VLM_CHECK(written.ok(), written.ToString());
  std::printf("%.6f %.6f\n", count_seconds, merge_seconds);
}

void Encode(char** arguments) {
  const auto tokenizer = Tokenizer::FromJson(Read(arguments[0]));
  VLM_CHECK(tokenizer.ok(), tokenizer.status().ToString());
  const std::string corpus = Read(arguments[1]);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::vector<int32_t>> encoded;
  for (std::string_view document : Documents(corpus)) encoded.push_back((*tokenizer)->EncodeOrdinary(document));
  const double seconds = SecondsSince(start);
  uint64_t ids = 0;
  uint64_t digest = 0xCBF29CE484222325;
  for (const auto& document : encoded) {
    ids += document.size();
    for (int32_t id : document) digest = (digest ^ static_cast<uint64_t>(id)) * 0x100000001B3;
  }
  std::printf("%.6f %llu %llu\n", seconds, static_cast<unsigned long long>(ids),
              static_cast<unsigned long long>(digest));
}

}  // namespace
}  // namespace vlm::data

int main(int count, char** arguments) {
  const std::string_view verb = count > 1 ? arguments[1] : "";
  if (verb == "train" && count == 6) {
    vlm::data::Train(arguments + 2);
  } else if (verb == "encode" && count == 4) {
    vlm::data::Encode(arguments + 2);
  } else {
    std::fputs("usage: tokenizer_bench train PATTERN VOCAB_SIZE CORPUS TOKENIZER_JSON | encode TOKENIZER_JSON CORPUS\n",
               stderr);
    return 2;
  }
  return 0;
}
