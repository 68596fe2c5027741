// Runs one fuzz target without libFuzzer: its seeds, its corpus, then seeded mutations of both. Equal arguments give
// equal inputs on every machine.
//
//   TARGET --corpus=FOLDER --runs=N --seed=S     a missing folder is an empty corpus
//   TARGET FILE...                               these inputs only, as they are
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/random.h"
#include "tests/fuzz/fuzz_target.h"

namespace vlm::fuzz {
namespace {

constexpr size_t kInputBytesMax = 16 << 10;
constexpr uint64_t kCorpusFileBytesMax = 1 << 20;

// The input that runs, for the handler of a crash; written before each run.
const std::string* g_input = nullptr;

// Writes the input to a file of the working folder: the way to repeat a crash.
void OnCrash(int signal) {
  constexpr char kPath[] = "fuzz-crash-input";
  if (std::FILE* file = std::fopen(kPath, "wb"); file != nullptr && g_input != nullptr) {
    std::fwrite(g_input->data(), 1, g_input->size(), file);
    std::fclose(file);
    std::fprintf(stderr, "the input that failed is in %s of the working folder\n", kPath);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Run(const std::string& input) {
  g_input = &input;
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  g_input = nullptr;
}

char AnyByte(Rng* rng) {
  constexpr unsigned char kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '\n', ' ', '0', '-'};
  return static_cast<char>(rng->Below(2) == 0 ? kEdges[rng->Below(std::size(kEdges))] : rng->Below(256));
}

// One change: a bit, a byte, a run of bytes removed or repeated, a part of another input, a cut.
void MutateOnce(const std::vector<std::string>& others, Rng* rng, std::string* input) {
  if (input->empty()) {
    input->push_back(AnyByte(rng));
    return;
  }
  const size_t at = rng->Below(input->size());
  const size_t length = 1 + rng->Below(std::min<size_t>(input->size() - at, 64));
  switch (rng->Below(8)) {
    case 0:
      (*input)[at] = static_cast<char>((*input)[at] ^ (1 << rng->Below(8)));
      break;
    case 1:
      (*input)[at] = AnyByte(rng);
      break;
    case 2:
      input->insert(at, 1, AnyByte(rng));
      break;
    case 3:
      input->erase(at, length);
      break;
    case 4:
      input->insert(rng->Below(input->size()), input->substr(at, length));
      break;
    case 5: {
      const std::string& other = others[rng->Below(others.size())];
      if (!other.empty()) input->insert(at, other.substr(rng->Below(other.size()), 1 + rng->Below(256)));
      break;
    }
    case 6:
      for (size_t i = 0; i < length; ++i) (*input)[at + i] = AnyByte(rng);
      break;
    default:
      if (rng->Below(4) == 0) input->resize(at);
      break;
  }
}

std::string Mutate(const std::vector<std::string>& inputs, Rng* rng) {
  std::string input = inputs[rng->Below(inputs.size())];
  const uint64_t changes = uint64_t{1} << rng->Below(5);
  for (uint64_t i = 0; i < changes; ++i) MutateOnce(inputs, rng, &input);
  if (input.size() > kInputBytesMax) input.resize(kInputBytesMax);
  return input;
}

absl::Status AddCorpus(const std::string& folder, std::vector<std::string>* inputs) {
  FileSystem* const files = PosixFileSystem();
  const absl::StatusOr<std::vector<std::string>> names = files->List(folder);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  VLM_RETURN_IF_ERROR(names.status());
  for (const std::string& name : *names) {
    VLM_ASSIGN_OR_RETURN(std::string contents, ReadFile(files, folder + "/" + name, kCorpusFileBytesMax));
    inputs->push_back(std::move(contents));
  }
  return absl::OkStatus();
}

absl::Status RunFiles(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    VLM_ASSIGN_OR_RETURN(const std::string input, ReadFile(PosixFileSystem(), path, kCorpusFileBytesMax));
    Run(input);
    std::cout << "ran " << path << "\n";
  }
  return absl::OkStatus();
}

absl::Status RunMutations(const std::string& corpus, uint64_t runs, uint64_t seed) {
  std::vector<std::string> inputs = Seeds();
  const size_t seeds = inputs.size();
  VLM_RETURN_IF_ERROR(AddCorpus(corpus, &inputs));
  for (const std::string& input : inputs) Run(input);
  const RngKey key{seed};
  for (uint64_t run = 0; run < runs; ++run) {
    Rng rng(key.Derive(run));
    Run(Mutate(inputs, &rng));
  }
  std::cout << "ran " << seeds << " seeds, " << inputs.size() - seeds << " inputs of the corpus and " << runs
            << " mutations of seed " << seed << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, OnCrash);
  std::string corpus;
  uint64_t runs = 0;
  uint64_t seed = 1;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--corpus=")) {
      corpus = argument.substr(9);
    } else if (argument.starts_with("--runs=")) {
      runs = std::stoull(argument.substr(7));
    } else if (argument.starts_with("--seed=")) {
      seed = std::stoull(argument.substr(7));
    } else if (argument.starts_with("-")) {
      std::cerr << "unknown argument " << argument << "; known: --corpus=FOLDER --runs=N --seed=S FILE...\n";
      return 64;
    } else {
      paths.push_back(argument);
    }
  }
  const absl::Status done = paths.empty() ? RunMutations(corpus, runs, seed) : RunFiles(paths);
  if (!done.ok()) std::cerr << done << "\n";
  return done.ok() ? 0 : 1;
}

}  // namespace
}  // namespace vlm::fuzz

int main(int argc, char** argv) { return vlm::fuzz::Main(argc, argv); }
