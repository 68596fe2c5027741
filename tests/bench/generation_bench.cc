// Generates from a LLaVA's or a Qwen2's folder, greedily and without a stop token, a number of rounds at a time as
// generation_bench.py asks, which lets this program and its peer take turns.
//
// Usage: generation_bench FOLDER THREADS NEW_TOKENS CASE=PROMPTS.safetensors ...
// Prompts: ids [B, T] and, of a LLaVA, pixels [B, 3, S, S] with image tokens in the ids; all of them are decoded
// together. Reads "CASE ROUNDS" per line from the standard input and prints one line of JSON with the seconds of each
// round and the answers of the last.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "model/generate.h"
#include "tests/bench/bench_model.h"
#include "train/process_memory.h"
#include "train/torch_edge.h"

namespace vlm::bench {
namespace {

absl::StatusOr<std::vector<model::Prompt>> ReadPrompts(const std::string& path, int64_t image_token) {
  VLM_ASSIGN_OR_RETURN(const auto tensors, ReadTensors(path));
  const at::Tensor ids_BT = tensors.at("ids");
  std::vector<model::Prompt> prompts(ids_BT.size(0));
  for (size_t row = 0; row < prompts.size(); ++row) {
    const int64_t* ids = ids_BT[row].const_data_ptr<int64_t>();
    prompts[row].ids.assign(ids, ids + ids_BT.size(1));
    if (tensors.contains("pixels")) prompts[row].pixels = tensors.at("pixels").narrow(0, row, 1).clone();
    for (int64_t t = 0; t < ids_BT.size(1); ++t) {
      if (ids[t] == image_token) prompts[row].image_rows.push_back(t);
    }
  }
  return prompts;
}

std::string Joined(const std::vector<std::vector<int64_t>>& answers) {
  std::string text;
  for (const std::vector<int64_t>& answer : answers) {
    text += text.empty() ? "[" : ", [";
    for (size_t i = 0; i < answer.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(answer[i]);
    text += "]";
  }
  return text;
}

struct Arguments {
  std::string folder;
  int threads = 1;
  int64_t new_tokens = 0;
  std::map<std::string, std::string> cases;  // name -> file
};

absl::Status Serve(const Arguments& arguments) {
  train::ReuseTensorMemory();  // as vlm-trainer does
  at::set_num_threads(arguments.threads);
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<BenchModel> opened, OpenBenchModel(arguments.folder, false));
  train::ParameterStore* const store = opened->store.get();
  for (size_t bucket = 0; bucket < store->buckets().size(); ++bucket) {
    VLM_RETURN_IF_ERROR(store->Acquire(static_cast<train::BucketId>(bucket)).Wait());
  }
  std::map<std::string, std::vector<model::Prompt>> cases;
  for (const auto& [name, path] : arguments.cases) {
    VLM_ASSIGN_OR_RETURN(cases[name], ReadPrompts(path, opened->config.image_token_index));
  }
  const model::NodeParams params = [store](model::NodeId node) {
    absl::StatusOr<model::Params> views = store->Views(node);
    VLM_CHECK(views.ok(), std::string(views.status().message()));
    return *std::move(views);
  };
  std::string name;
  for (int64_t rounds = 0; std::cin >> name >> rounds;) {
    const std::vector<model::Prompt>& prompts = cases.at(name);
    model::GenerateOptions options;
    options.max_new_tokens = arguments.new_tokens;
    options.batch_prompts = static_cast<int64_t>(prompts.size());
    std::string seconds;
    std::vector<std::vector<int64_t>> answers;
    for (int64_t round = 0; round < rounds; ++round) {
      const absl::Duration start = RealClock()->Monotonic();
      VLM_ASSIGN_OR_RETURN(answers, model::GreedyGenerate(opened->graph, params, prompts, options));
      const double taken = absl::ToDoubleSeconds(RealClock()->Monotonic() - start);
      seconds += (round > 0 ? ", " : "") + std::to_string(taken);
    }
    std::printf("{\"seconds\": [%s], \"answers\": [%s]}\n", seconds.c_str(), Joined(answers).c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace vlm::bench

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: generation_bench FOLDER THREADS NEW_TOKENS CASE=PROMPTS.safetensors ...\n");
    return 2;
  }
  vlm::bench::Arguments arguments{argv[1], std::stoi(argv[2]), std::stoll(argv[3]), {}};
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals != std::string::npos) arguments.cases[word.substr(0, equals)] = word.substr(equals + 1);
  }
  const absl::Status status = vlm::train::CatchTorch("generation_bench", [&] { return vlm::bench::Serve(arguments); });
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
