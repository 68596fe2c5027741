// The records of a data set and its index: a conversation parsed, rendered and cut; a manifest folder; the tables of
// indexed files; chunk sums. The first byte says which.
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

#include "base/check.h"
#include "base/simulated_file_system.h"
#include "checkpoint/format/chunk_sums.h"
#include "data/chat_template.h"
#include "data/conversation.h"
#include "data/manifest.h"
#include "data/record_file.h"
#include "data/sample.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/json_editor.h"
#include "tests/fuzz/memory_file.h"
#include "tests/unit/data/shapes_tokenizer.h"

namespace vlm::data {
namespace {

using fuzz::FuzzInput;
using nlohmann::json;

const std::vector<std::unique_ptr<ChatTemplate>>& Templates() {
  static const auto* const kTemplates = new std::vector<std::unique_ptr<ChatTemplate>>([] {
    static const Tokenizer* const kTokenizer = TrainSmallTokenizer().release();
    std::vector<std::unique_ptr<ChatTemplate>> made;
    for (const char* name : {"chatml", "plain"}) {
      absl::StatusOr<std::unique_ptr<ChatTemplate>> chat_template = NewChatTemplate(name, kTokenizer);
      VLM_CHECK(chat_template.ok(), chat_template.status().ToString());
      made.push_back(*std::move(chat_template));
    }
    return made;
  }());
  return *kTemplates;
}

std::vector<json> Conversations() {
  const json picture = {{"type", "image"}};
  const json text = {{"type", "text"}, {"text", "which color?"}};
  return {{{"text", "the red circle"}, {"meta", {{"kind", "caption"}}}},
          {{"messages",
            {{{"role", "system"}, {"content", "Be short."}},
             {{"role", "user"}, {"content", {picture, text}}},
             {{"role", "assistant"}, {"content", "red <|im_end|>"}}}}},
          {{"messages", {{{"role", "user"}, {"content", {picture}}}, {{"role", "assistant"}, {"content", "red"}}}}}};
}

void CheckSample(Sample sample, int images, int64_t limit) {
  VLM_CHECK(sample.images() == images, "a picture was lost or added");
  VLM_CHECK(sample.targets() <= sample.tokens(), "more targets than tokens");
  const int64_t before = sample.tokens();
  const int64_t dropped = Truncate(&sample, limit);
  VLM_CHECK(sample.tokens() <= limit && sample.tokens() + dropped == before, "a sample was cut wrongly");
}

void ReadConversation(FuzzInput* input) {
  const int images = input->Byte() % 4;
  const int64_t limit = 1 + input->Byte();
  const absl::StatusOr<Conversation> conversation =
      ParseConversation(fuzz::ReadJsonText(Conversations(), input), images);
  if (!conversation.ok()) return;
  VLM_CHECK(conversation->images() == images, "marks and pictures differ");
  for (const auto& chat_template : Templates()) {
    for (const bool prompt : {false, true}) {
      absl::StatusOr<Sample> sample =
          chat_template->Render(*conversation, {.image_tokens = 4, .generation_prompt = prompt});
      if (sample.ok()) CheckSample(*std::move(sample), images, limit);
    }
  }
}

Manifest GoodManifest() {
  Manifest manifest;
  manifest.render = {std::string(64, 'a'), "chatml", 24, 16, 128};
  manifest.files = {{"/data/a.tar", 4096, std::string(64, 'b'), "a"},
                    {"/data/b.jsonl", 100, std::string(64, 'c'), "b"}};
  manifest.sources = {{.name = "a", .first = 0, .samples = 2}, {.name = "b", .first = 2, .samples = 1}};
  manifest.samples = {{512, 20, 0, 30, 10, 0, 1}, {1024, 20, 0, 30, 10, 1, 1}, {0, 40, 1, 12, 11, 2, 0}};
  manifest.images = {{2048, 100, 0}, {2560, 100, 0}};
  return manifest;
}

void ReadManifestFolder(FuzzInput* input) {
  const ManifestBytes good = EncodeManifest(GoodManifest());
  std::string samples = good.samples, images = good.images;
  for (int edits = input->Byte() % 4; edits > 0; --edits) {
    std::string& table = input->Byte() % 2 == 0 ? samples : images;
    if (!table.empty()) table[input->Byte() % table.size()] = static_cast<char>(input->Byte());
    if (input->Byte() % 8 == 0) table.resize(input->Byte() % (table.size() + 1));
  }
  SimulatedFileSystem files;
  VLM_CHECK(files.MakeDirectory("/index").ok(), "cannot make the folder");
  fuzz::PutFile(&files, std::string("/index/") + kSamplesFile, samples);
  fuzz::PutFile(&files, std::string("/index/") + kImagesFile, images);
  fuzz::PutFile(&files, std::string("/index/") + kManifestFile, fuzz::ReadJsonText({json::parse(good.json)}, input));
  const absl::StatusOr<Manifest> manifest = ReadManifest(&files, "/index");
  if (!manifest.ok()) return;
  for (const SampleRecord& sample : manifest->samples) {
    VLM_CHECK(sample.file < manifest->files.size(), "a sample of no file");
    VLM_CHECK(uint64_t{sample.first_image} + sample.images <= manifest->images.size(), "a picture outside the table");
  }
  for (const ManifestSource& source : manifest->sources) {
    VLM_CHECK(source.first + source.samples <= manifest->samples.size(), "a source outside the table");
  }
}

void ReadFileIndexes(FuzzInput* input) {
  const Manifest good = GoodManifest();
  std::string bytes;
  if (input->Byte() % 2 == 0) {
    FileIndex index;
    index.file = good.files[0];
    index.ordinal = 1;
    index.samples = {good.samples[0], good.samples[1]};
    index.images = good.images;
    bytes = EncodeFileIndexes({index});
    for (int edits = 1 + input->Byte() % 8; edits > 0; --edits) {
      bytes[(input->Byte() | static_cast<size_t>(input->Byte()) << 8) % bytes.size()] =
          static_cast<char>(input->Byte());
    }
  } else {
    bytes = std::string(input->Rest());
  }
  const absl::StatusOr<std::vector<FileIndex>> indexes = DecodeFileIndexes(bytes);
  if (!indexes.ok()) return;
  const std::string again = EncodeFileIndexes(*indexes);
  const absl::StatusOr<std::vector<FileIndex>> twice = DecodeFileIndexes(again);
  VLM_CHECK(twice.ok() && EncodeFileIndexes(*twice) == again, "indexes changed on their way");
  MergeIndexes(good.render, {"a", "b"}, *indexes);
}

void ReadSums(FuzzInput* input) {
  checkpoint::ChunkHasher hasher;
  std::string contents(input->Byte() * 1024U, 'x');
  hasher.Update(std::as_bytes(std::span(contents.data(), contents.size())));
  std::string bytes = checkpoint::SerializeChunkSums(hasher.Finish());
  for (int edits = input->Byte() % 8; edits > 0; --edits) {
    bytes[input->Byte() % bytes.size()] = static_cast<char>(input->Byte());
  }
  if (input->Byte() % 4 == 1) bytes = std::string(input->Rest());
  const absl::StatusOr<checkpoint::ChunkSums> sums = checkpoint::ParseChunkSums(bytes);
  if (sums.ok()) VLM_CHECK(checkpoint::SerializeChunkSums(*sums) == bytes, "sums changed on their way");
}

void ReadLines(FuzzInput* input) {
  const std::string lines(input->Rest());
  const fuzz::MemoryFile file(lines);
  const absl::StatusOr<std::vector<RecordPlace>> records = ListRecords("/data/a.jsonl", file);
  if (!records.ok()) return;
  for (const RecordPlace& record : *records) {
    const absl::StatusOr<std::string> line = ReadSpan(file, record.json);
    VLM_CHECK(line.ok() && line->find('\n') == std::string::npos, "a record is not one line");
    const absl::StatusOr<Conversation> conversation = ParseConversation(*line, 0);
    if (conversation.ok()) VLM_CHECK(conversation->images() == 0, "a picture in a file without pictures");
  }
}

}  // namespace
}  // namespace vlm::data

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  switch (input.Byte() % 5) {
    case 0:
      vlm::data::ReadConversation(&input);
      break;
    case 1:
      vlm::data::ReadManifestFolder(&input);
      break;
    case 2:
      vlm::data::ReadFileIndexes(&input);
      break;
    case 3:
      vlm::data::ReadSums(&input);
      break;
    default:
      vlm::data::ReadLines(&input);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  int number = 0;
  for (const nlohmann::json& conversation : vlm::data::Conversations()) {
    const char images = static_cast<char>(number == 0 ? 0 : 1);
    seeds.push_back(std::string{0, images, 9, static_cast<char>(number++), 0});
    seeds.push_back(std::string{0, images, 9, '\xff'} + conversation.dump());
    seeds.push_back("\x04" + conversation.dump() + "\n" + conversation.dump() + "\n");
  }
  seeds.push_back(std::string("\x01\x00\x00\x00", 4));
  seeds.push_back(std::string("\x01\x01\x00\x04\x01\x01\x00\x02\x00\x01\x02\x00", 12));
  seeds.push_back(std::string("\x02\x00\x00\x09\x00\x01", 6));
  seeds.push_back(std::string("\x03\x00\x00\x00", 4));
  seeds.push_back(std::string("\x03\xff\x01\x05\x01\x00", 6));
  return seeds;
}
