// The same folder in this program and in transformers: every hidden state, the logits, the loss, every gradient,
// greedy answers, and the keys, configuration and bits that transformers writes back. In bf16, the errors of both
// programs against fp64 on the same rounded weights.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file_system.h"
#include "checkpoint/format/safetensors.h"
#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/safetensors_reader.h"
#include "model/generate.h"
#include "model/llava.h"
#include "model/ops/norm.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using testing::Layout;
using testing::ParameterSet;
using testing::PassResult;
using Tensors = std::map<std::string, at::Tensor>;

constexpr double kSmoothing = 0.1;
constexpr int64_t kNewTokens = 6;
constexpr double kBf16Rounding = 1.0 / 512;  // half a unit in the last place
constexpr double kBf16Noise = 1e-5;  // of all gradients together: a key bias whose true gradient is zero is noise

struct ParityCase {
  std::string name;
  bool llava = true;
  LlavaConfig config;
  std::vector<testing::DocumentShape> documents;
};

// Shapes that are not the published ones.
std::vector<ParityCase> Cases() {
  const LlavaConfig one_head = testing::SmallLlava();
  LlavaConfig untied = one_head;
  untied.text.tie_word_embeddings = false;
  untied.text.head_dim = 0;
  untied.text.num_key_value_heads = 2;
  untied.text.rope_theta = 1e6;
  untied.text.num_hidden_layers = 3;
  untied.vision_feature_layer = -2;  // the last block is not in the path
  untied.vision.num_hidden_layers = 3;
  LlavaConfig text = one_head;
  text.text.vocab_size = 131;
  text.text.num_key_value_heads = 4;
  text.text.hidden_size = 64;
  LlavaConfig untied_text = untied;
  untied_text.text.head_dim = 18;
  return {{"llava_one_key_head", true, one_head, {{14, 1}, {7, 0}, {25, 2}, {14, 1}}},
          {"llava_untied", true, untied, {{23, 1}, {23, 1}, {1, 0}, {6, 0}}},
          {"llava_without_pictures", true, one_head, {{9, 0}, {4, 0}}},
          {"text", false, text, {{33, 0}, {8, 0}, {8, 0}}},
          {"text_untied", false, untied_text, {{17, 0}}}};
}

checkpoint::DType TypeOf(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kLong) return checkpoint::DType::kI64;
  return tensor.scalar_type() == at::kBFloat16 ? checkpoint::DType::kBF16 : checkpoint::DType::kF32;
}

void WriteTensors(const std::string& path, const Tensors& tensors) {
  std::vector<checkpoint::TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, TypeOf(tensor), {tensor.sizes().begin(), tensor.sizes().end()}});
  }
  const auto header = checkpoint::PlanSafetensors(specs, {{"format", "pt"}});
  ASSERT_TRUE(header.ok()) << header.status();
  std::ofstream file(path, std::ios::binary);
  file << checkpoint::SerializeSafetensorsHeader(*header);
  for (const checkpoint::TensorEntry& entry : header->tensors) {
    const at::Tensor tensor = tensors.at(entry.name).contiguous();
    file.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
  }
}

Tensors ReadTensors(const std::string& path) {
  Tensors tensors;
  auto reader = checkpoint::SafetensorsReader::Open(PosixFileSystem(), path, {.require_sums = false, .digest = ""});
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return tensors;
  for (const checkpoint::TensorEntry& entry : (*reader)->header().tensors) {
    EXPECT_EQ(entry.dtype, checkpoint::DType::kF64) << entry.name;
    at::Tensor tensor = at::empty(std::vector<int64_t>(entry.shape.begin(), entry.shape.end()), at::kDouble);
    const std::span<std::byte> bytes(static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes());
    EXPECT_TRUE((*reader)->Read(entry, 0, bytes).ok());
    tensors[entry.name] = tensor;
  }
  return tensors;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Text and vision weights in files of their own under one index, as a step folder has them.
void WriteModelFolder(const std::string& folder, const Graph& graph, const ParameterSet& parameters) {
  std::map<WeightsFile, Tensors> files;
  nlohmann::json index;
  int64_t bytes = 0;
  for (size_t i = 0; i < graph.params.size(); ++i) {
    const std::string& name = graph.params[i].name;
    files[FileOf(name)][name] = parameters.tensors[i];
    index["weight_map"][name] = FileOf(name) == WeightsFile::kLlm ? "llm.safetensors" : "vision.safetensors";
    bytes += static_cast<int64_t>(parameters.tensors[i].nbytes());
  }
  index["metadata"]["total_size"] = bytes;
  for (const auto& [file, tensors] : files) {
    WriteTensors(folder + (file == WeightsFile::kLlm ? "/llm.safetensors" : "/vision.safetensors"), tensors);
  }
  std::ofstream(folder + "/model.safetensors.index.json") << index.dump(2);
}

struct Prepared {
  ParityCase spec;
  std::string folder;
  Graph graph;
  ParameterSet parameters, rounded;  // fp32; the same in bf16
  MicroBatch batch;
  Tensors oracle;                            // fp64, on the fp32 weights
  Tensors rounded_oracle, rounded_computed;  // fp64 and transformers' own bf16, on the bf16 weights
  nlohmann::json summary;
};

class ParityTest : public ::testing::TestWithParam<size_t> {
 protected:
  static void SetUpTestSuite() {
    const std::string root = ::testing::TempDir() + "/transformers_parity";
    std::filesystem::remove_all(root);
    prepared_ = new std::vector<Prepared>();
    for (const ParityCase& spec : Cases()) {
      prepared_->push_back(Prepare(spec, root + "/" + spec.name));
    }
    const std::string command = std::string(VLM_ORACLE_PYTHON) + " " + VLM_SOURCE_DIR +
                                "/tests/parity/model/transformers_oracle.py " + root + " > " + root + ".log 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0) << ReadText(root + ".log");
    for (Prepared& p : *prepared_) {
      p.oracle = ReadTensors(p.folder + "/oracle.safetensors");
      p.rounded_oracle = ReadTensors(p.folder + "/bf16/oracle.safetensors");
      p.rounded_computed = ReadTensors(p.folder + "/bf16/computed.safetensors");
      p.summary = nlohmann::json::parse(ReadText(p.folder + "/oracle.json"));
    }
  }
  static void TearDownTestSuite() { delete prepared_; }

  static Prepared Prepare(const ParityCase& spec, const std::string& folder) {
    std::filesystem::create_directories(folder + "/bf16");
    auto graph = spec.llava ? BuildLlava(spec.config) : BuildQwen2(spec.config.text);
    EXPECT_TRUE(graph.ok()) << graph.status();
    Prepared p{spec, folder, std::move(*graph), {}, {}, {}, {}, {}, {}, {}};
    p.parameters = testing::RandomParameters(p.graph, 31, at::kFloat, Layout::kFlat);
    p.rounded = testing::RandomParameters(p.graph, 31, at::kBFloat16, Layout::kFlat);
    p.batch = testing::RandomBatch(spec.config, spec.documents, 32);
    WriteModelFolder(folder, p.graph, p.parameters);
    WriteModelFolder(folder + "/bf16", p.graph, p.rounded);
    const auto config = [&](const char* type) {
      return spec.llava ? ToJson(spec.config, type) : ToJson(spec.config.text, type);
    };
    std::ofstream(folder + "/config.json") << config("float32");
    std::ofstream(folder + "/bf16/config.json") << config("bfloat16");
    const MicroBatch& b = p.batch;
    Tensors inputs = {{"ids", b.ids_N},
                      {"starts", at::tensor(b.document_starts, at::kLong)},
                      {"smoothing", at::full({1}, kSmoothing)},
                      {"target_index", b.target_index_K},
                      {"target_id", b.target_id_K},
                      {"target_weight", b.target_weight_K}};
    if (b.counts.images > 0) inputs["pixels"] = b.pixels;
    WriteTensors(folder + "/inputs.safetensors", inputs);
    return p;
  }

  const Prepared& Case() const { return (*prepared_)[GetParam()]; }

 private:
  static std::vector<Prepared>* prepared_;
};
std::vector<Prepared>* ParityTest::prepared_ = nullptr;

double Norm(const at::Tensor& tensor) { return tensor.to(at::kDouble).norm().item<double>(); }

void ExpectAgrees(const at::Tensor& got, const at::Tensor& expected, double absolute, const std::string& what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  EXPECT_LE(Norm(got.to(at::kDouble) - expected), 1e-4 * Norm(expected) + absolute) << what;
}

TEST_P(ParityTest, TransformersOpensTheFolderWithZeroDifference) {
  const Prepared& p = Case();
  for (const char* kind : {"missing", "unexpected", "mismatched"}) EXPECT_EQ(p.summary[kind].dump(), "[]") << kind;
}

TEST_P(ParityTest, TransformersWritesTheSameKeysAndConfiguration) {
  const Prepared& p = Case();
  std::map<std::string, std::vector<int64_t>> ours, theirs;
  for (const ParamSpec& spec : p.graph.params) ours[spec.name] = spec.shape;
  for (const auto& [name, shape] : p.summary["saved"].items()) theirs[name] = shape.get<std::vector<int64_t>>();
  EXPECT_EQ(ours, theirs);
  const std::string config = ReadText(p.folder + "/resaved/config.json");
  if (p.spec.llava) {
    const auto read = ParseLlavaConfig(config);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, p.spec.config);
  } else {
    const auto read = ParseTextConfig(config);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, p.spec.config.text);
  }
}

// Every tensor of the folder that transformers wrote has the bytes of the parameter it came from.
void ExpectSameBits(const std::string& folder, const Graph& graph, const ParameterSet& parameters) {
  const auto opened = checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder, {.require_sums = false});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->tensors().size(), graph.params.size());
  for (size_t i = 0; i < graph.params.size(); ++i) {
    const std::string& name = graph.params[i].name;
    const at::Tensor& written = parameters.tensors[i];
    const checkpoint::TensorEntry* entry = (*opened)->Find(name);
    ASSERT_NE(entry, nullptr) << name;
    EXPECT_EQ(entry->dtype, TypeOf(written)) << name;
    ASSERT_EQ(entry->bytes(), written.nbytes()) << name;
    std::vector<std::byte> bytes(entry->bytes());
    ASSERT_TRUE((*opened)->Read(name, 0, bytes).ok()) << name;
    EXPECT_EQ(std::memcmp(bytes.data(), written.const_data_ptr(), bytes.size()), 0) << name;
  }
}

TEST_P(ParityTest, WhatTransformersWritesBackIsEqualBitForBit) {
  const Prepared& p = Case();
  ExpectSameBits(p.folder + "/resaved", p.graph, p.parameters);
  ExpectSameBits(p.folder + "/bf16/resaved", p.graph, p.rounded);
}

at::Tensor Logits(const Prepared& p, const ParameterSet& parameters, const PassResult& pass) {
  const c10::NoGradGuard no_grad;
  const std::vector<ParamId>& head = p.graph.nodes.back().params;
  const at::Tensor last =
      pass.values[p.graph.FindValue("llm.hidden." + std::to_string(p.spec.config.text.num_hidden_layers))];
  return at::linear(ops::RmsNorm(last, parameters.tensors[head[0]], p.spec.config.text.rms_norm_eps),
                    parameters.tensors[head[1]]);
}

TEST_P(ParityTest, HiddenStatesLogitsAndLossAgree) {
  const Prepared& p = Case();
  const PassResult pass = testing::RunPass(p.graph, p.parameters, p.batch, {.smoothing = kSmoothing});
  int compared = 0;
  for (size_t i = 0; i < p.graph.values.size(); ++i) {
    const auto found = p.oracle.find(p.graph.values[i].name);
    if (found == p.oracle.end() || !pass.values[i].defined()) continue;
    ExpectAgrees(pass.values[i], found->second, 0, found->first);
    ++compared;
  }
  const int64_t layers = p.spec.config.text.num_hidden_layers;
  EXPECT_GE(compared, layers + (p.batch.counts.images > 0 ? p.spec.config.vision.num_hidden_layers + 1 : 0));
  ExpectAgrees(Logits(p, p.parameters, pass), p.oracle.at("logits"), 0, "logits");
  EXPECT_NEAR(pass.loss, p.oracle.at("loss").item<double>(), 1e-5 * std::abs(pass.loss));
  // The mean cross-entropy that transformers' own loss function gives for the same labels.
  const double mean = -pass.values[p.graph.results[0]].to(at::kDouble).mean().item<double>();
  EXPECT_NEAR(mean, p.oracle.at("mean_loss").item<double>(), 1e-5 * mean);
}

TEST_P(ParityTest, EveryGradientAgrees) {
  const Prepared& p = Case();
  double squares = 0;
  size_t reached = 0;
  for (const auto& [name, tensor] : p.oracle) {
    if (name.rfind("grad.", 0) == 0) squares += std::pow(Norm(tensor), 2), ++reached;
  }
  for (const bool known : {false, true}) {
    const PassResult pass =
        testing::RunPass(p.graph, p.parameters, p.batch, {.known_coefficients = known, .smoothing = kSmoothing});
    size_t compared = 0;
    for (size_t i = 0; i < p.graph.params.size(); ++i) {
      const std::string& name = p.graph.params[i].name;
      const auto found = p.oracle.find("grad." + name);
      if (found == p.oracle.end()) {
        EXPECT_EQ(Norm(pass.gradients[i]), 0) << name << " is not reached by the loss";
        continue;
      }
      ExpectAgrees(pass.gradients[i], found->second, 1e-7 * std::sqrt(squares), name);
      ++compared;
    }
    EXPECT_EQ(compared, reached);
  }
}

// A bf16 computation has no closer bound than another one of the same type: the error against fp64 on the same rounded
// weights is at most twice that of transformers, beside the rounding of a result that is itself stored in bf16.
TEST_P(ParityTest, InBf16ErrorsAreThoseOfTransformers) {
  const Prepared& p = Case();
  double squares = 0;
  size_t reached = 0;
  for (const auto& [name, tensor] : p.rounded_oracle) {
    if (name.rfind("grad.", 0) == 0) squares += std::pow(Norm(tensor), 2), ++reached;
  }
  const auto expect_close = [&](const at::Tensor& got, const std::string& name, double absolute) {
    const at::Tensor& truth = p.rounded_oracle.at(name);
    ASSERT_EQ(got.sizes(), truth.sizes()) << name;
    const double theirs = Norm(p.rounded_computed.at(name) - truth);
    EXPECT_LE(Norm(got.to(at::kDouble) - truth), 2 * theirs + kBf16Rounding * Norm(truth) + absolute) << name;
  };
  for (const bool known : {false, true}) {
    const PassResult pass = testing::RunPass(p.graph, p.rounded, p.batch,
                                             {.known_coefficients = known, .frozen = {}, .smoothing = kSmoothing});
    expect_close(Logits(p, p.rounded, pass), "logits", 0);
    expect_close(at::full({1}, pass.loss, at::kDouble), "loss", 0);
    size_t compared = 0;
    for (size_t i = 0; i < p.graph.params.size(); ++i) {
      const std::string name = "grad." + p.graph.params[i].name;
      if (p.rounded_oracle.count(name) == 0) continue;
      EXPECT_EQ(pass.gradients[i].scalar_type(), at::kBFloat16);
      expect_close(pass.gradients[i], name, kBf16Noise * std::sqrt(squares));
      ++compared;
    }
    EXPECT_EQ(compared, reached);
  }
}

TEST_P(ParityTest, GreedyAnswersAgree) {
  const Prepared& p = Case();
  std::vector<Prompt> prompts;
  const int64_t* ids = p.batch.ids_N.const_data_ptr<int64_t>();
  int64_t image = 0;
  for (size_t d = 0; d < p.spec.documents.size(); ++d) {
    const int64_t begin = p.batch.document_starts[d], images = p.spec.documents[d].images;
    Prompt prompt;
    prompt.ids.assign(ids + begin, ids + p.batch.document_starts[d + 1]);
    for (int64_t i = 0; i < images * p.spec.config.ImageTokens(); ++i) prompt.image_rows.push_back(i);
    if (images > 0) prompt.pixels = p.batch.pixels.narrow(0, image, images);
    image += images;
    prompts.push_back(prompt);
  }
  const auto answers = GreedyGenerate(p.graph, [&](NodeId node) { return p.parameters.Of(p.graph, node); }, prompts,
                                      {.max_new_tokens = kNewTokens});
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_EQ(*answers, p.summary["generated"].get<std::vector<std::vector<int64_t>>>());
}

INSTANTIATE_TEST_SUITE_P(Models, ParityTest, ::testing::Range(size_t{0}, size_t{5}),
                         [](const auto& info) { return Cases()[info.param].name; });

}  // namespace
}  // namespace vlm::model
