#include "train/checkpoint_state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/mutex.h"
#include "gang_run.h"

namespace vlm::train {
namespace {

// A folder in memory: files by name, as SaveState made them on all ranks.
using Folder = std::map<std::string, FileImage>;

class MemorySource final : public TensorSource {
 public:
  MemorySource(const Folder& folder, bool optimizer) {
    for (const auto& [name, file] : folder) {
      if (file.is_text() || (name.rfind("optimizer", 0) == 0) != optimizer) continue;
      for (const TensorImage& tensor : file.tensors) tensors_[tensor.name] = tensor;
    }
  }
  std::vector<Info> List() const override {
    std::vector<Info> all;
    for (const auto& [name, tensor] : tensors_) all.push_back({name, tensor.dtype, tensor.shape});
    return all;
  }
  absl::Status Read(const std::string& name, uint64_t offset, std::span<std::byte> out) override {
    const std::span<const std::byte> bytes = tensors_.at(name).bytes();
    if (offset + out.size() > bytes.size()) return absl::OutOfRangeError(name);
    std::memcpy(out.data(), bytes.data() + offset, out.size());
    return absl::OkStatus();
  }
  std::map<std::string, TensorImage>* tensors() { return &tensors_; }

 private:
  std::map<std::string, TensorImage> tensors_;
};

StateOptions SmallFiles() {
  StateOptions options;
  options.file_bytes_max = 200000;
  return options;
}

GangOptions ThreeSteps(int world, ZeroLevel zero = ZeroLevel::kZero2, at::ScalarType compute = at::kFloat) {
  GangOptions options;
  options.toy.hidden = 184;
  options.world = world;
  options.zero = zero;
  options.compute = compute;
  options.steps = 3;
  return options;
}

Folder SaveAfter(GangOptions options) {
  Folder folder;
  Mutex mutex;
  options.after = [&](ParameterStore* store) {
    std::vector<FileImage> files = SaveState(PlanState(*store, SmallFiles()), store).value();
    MutexLock lock(&mutex);
    for (FileImage& file : files) {
      const std::string name = file.name;
      EXPECT_TRUE(folder.emplace(name, std::move(file)).second) << "written by two ranks: " << name;
    }
  };
  RunGang(options);
  return folder;
}

absl::Status Load(const Folder& folder, ParameterStore* store) {
  MemorySource weights(folder, false), optimizer(folder, true);
  return LoadState(&weights, &optimizer, folder.at("optimizer.json").text, store);
}

void ExpectEqualFolders(const Folder& a, const Folder& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, file] : a) {
    ASSERT_TRUE(b.contains(name)) << name;
    const FileImage& other = b.at(name);
    EXPECT_EQ(file.text, other.text) << name;
    ASSERT_EQ(file.tensors.size(), other.tensors.size()) << name;
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      EXPECT_EQ(file.tensors[i].name, other.tensors[i].name);
      EXPECT_EQ(file.tensors[i].shape, other.tensors[i].shape);
      EXPECT_TRUE(std::ranges::equal(file.tensors[i].bytes(), other.tensors[i].bytes()))
          << name << " " << file.tensors[i].name;
    }
  }
}

TEST(CheckpointStateTest, FilesAreEqualForAnyNumberOfRanksAndZeroLevel) {
  for (at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    const Folder one = SaveAfter(ThreeSteps(1, ZeroLevel::kZero2, compute));
    EXPECT_GT(one.size(), 20u);
    ExpectEqualFolders(one, SaveAfter(ThreeSteps(2, ZeroLevel::kZero2, compute)));
    ExpectEqualFolders(one, SaveAfter(ThreeSteps(3, ZeroLevel::kZero0, compute)));
  }
}

TEST(CheckpointStateTest, FilesHoldWhatTheirNamesSay) {
  const Folder folder = SaveAfter(ThreeSteps(2));
  const auto index = nlohmann::json::parse(folder.at("model.safetensors.index.json").text);
  uint64_t bytes = 0;
  for (const auto& [name, file] : folder) {
    uint64_t file_bytes = 0;
    for (const TensorImage& tensor : file.tensors) {
      file_bytes += tensor.value.nbytes();
      if (name.rfind("optimizer", 0) == 0) continue;
      EXPECT_EQ(index["weight_map"][tensor.name], name);
      EXPECT_EQ(tensor.name.rfind("language_model", 0) == 0, name.rfind("llm", 0) == 0);
    }
    if (file.tensors.size() > 1) {
      EXPECT_LE(file_bytes, 200000u) << name;
    }
    if (name.rfind("optimizer", 0) != 0) bytes += file_bytes;
  }
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_TRUE(folder.contains("vision-00001-of-00002.safetensors"));
  EXPECT_TRUE(folder.contains("optimizer.safetensors.index.json"));
  EXPECT_EQ(nlohmann::json::parse(folder.at("optimizer.json").text)["steps"]["language_model.embed.weight"], 3);
}

struct Resume {
  int from, to;
  ZeroLevel zero_from, zero_to;
  at::ScalarType compute;
};

class ResumeTest : public testing::TestWithParam<Resume> {};

TEST_P(ResumeTest, ContinuesBitForBit) {
  const Resume& p = GetParam();
  GangOptions straight = ThreeSteps(1, ZeroLevel::kZero2, p.compute);
  straight.steps = 6;
  GangResult expected = RunGang(straight);
  expected.losses.erase(expected.losses.begin(), expected.losses.begin() + 3);
  expected.norms.erase(expected.norms.begin(), expected.norms.begin() + 3);

  const Folder folder = SaveAfter(ThreeSteps(p.from, p.zero_from, p.compute));
  GangOptions resumed = ThreeSteps(p.to, p.zero_to, p.compute);
  resumed.first_step = 4;
  resumed.before = [&](ParameterStore* store) {
    const absl::Status status = Load(folder, store);
    ASSERT_TRUE(status.ok()) << status;
  };
  ExpectEqualBits(expected, RunGang(resumed), "resumed");
}

INSTANTIATE_TEST_SUITE_P(Worlds, ResumeTest,
                         testing::Values(Resume{2, 1, ZeroLevel::kZero2, ZeroLevel::kZero2, at::kFloat},
                                         Resume{1, 2, ZeroLevel::kZero2, ZeroLevel::kZero2, at::kFloat},
                                         Resume{1, 3, ZeroLevel::kZero0, ZeroLevel::kZero3, at::kFloat},
                                         Resume{2, 3, ZeroLevel::kZero2, ZeroLevel::kZero0, at::kFloat},
                                         Resume{3, 2, ZeroLevel::kZero3, ZeroLevel::kZero1, at::kFloat},
                                         Resume{4, 4, ZeroLevel::kZero1, ZeroLevel::kZero3, at::kFloat},
                                         Resume{3, 2, ZeroLevel::kZero3, ZeroLevel::kZero1, at::kBFloat16},
                                         Resume{2, 3, ZeroLevel::kZero2, ZeroLevel::kZero2, at::kBFloat16}));

TEST(CheckpointStateTest, SavingDoesNotChangeTraining) {
  GangOptions plain = ThreeSteps(2);
  const GangResult expected = RunGang(plain);
  plain.after = [](ParameterStore* store) { ASSERT_TRUE(SaveState(PlanState(*store, SmallFiles()), store).ok()); };
  ExpectEqualBits(expected, RunGang(plain), "saved");
}

class LoadErrorsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { folder_ = new Folder(SaveAfter(ThreeSteps(1))); }
  LoadErrorsTest() : collective_(NewSingleRankCollective()), rank_(ThreeSteps(1), collective_.get()) {}
  absl::Status LoadChanged(const std::function<void(MemorySource*, MemorySource*, std::string*)>& change) {
    MemorySource weights(*folder_, false), optimizer(*folder_, true);
    std::string json = folder_->at("optimizer.json").text;
    change(&weights, &optimizer, &json);
    return LoadState(&weights, &optimizer, json, rank_.store());
  }
  void ExpectError(const absl::Status& status, const std::string& part) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
  }
  static Folder* folder_;
  const std::unique_ptr<Collective> collective_;
  ToyRank rank_;
};
Folder* LoadErrorsTest::folder_ = nullptr;

TEST_F(LoadErrorsTest, IntactLoads) {
  EXPECT_TRUE(LoadChanged([](auto*, auto*, auto*) {}).ok());
}

TEST_F(LoadErrorsTest, MissingOrSurplusWeights) {
  ExpectError(LoadChanged([](auto* w, auto*, auto*) { w->tensors()->erase("language_model.embed.weight"); }),
              "weights lack a parameter of the model: language_model.embed.weight");
  ExpectError(LoadChanged([](auto* w, auto*, auto*) {
                (*w->tensors())["lm_head.weight"] = w->tensors()->at("language_model.embed.weight");
              }),
              "lm_head.weight");
  ExpectError(
      LoadChanged([](auto* w, auto*, auto*) { w->tensors()->at("language_model.embed.weight").shape = {184, 37}; }),
      "is [184, 37], expected [37, 184]");
  ExpectError(
      LoadChanged([](auto* w, auto*, auto*) { w->tensors()->at("language_model.embed.weight").dtype = "BF16"; }),
      "saved in another type");
}

TEST_F(LoadErrorsTest, OptimizerStateMustBeWhole) {
  ExpectError(LoadChanged([](auto*, auto* o, auto*) { o->tensors()->erase(o->tensors()->begin()); }), "not whole");
  ExpectError(LoadChanged([](auto*, auto* o, auto*) { o->tensors()->erase(std::prev(o->tensors()->end())); }),
              "not whole");
  ExpectError(LoadChanged([](auto*, auto* o, auto*) {
                (*o->tensors())["m/0-37/vision_tower.post.weight"] = {
                    "m/0-37/vision_tower.post.weight", "F32", {37}, {}};
              }),
              "does not train here");
  ExpectError(
      LoadChanged([](auto*, auto* o, auto*) { (*o->tensors())["m/0-184/vision_tower.embed.bias"].shape = {183}; }),
      "another shape");
  for (const char* name : {"x", "m/3", "q/0-1/a", "m/a-b/vision_tower.embed.bias", "m/5-5/vision_tower.embed.bias"}) {
    ExpectError(LoadChanged([&](auto*, auto* o, auto*) { (*o->tensors())[name] = {name, "F32", {1}, {}}; }),
                "not a range of optimizer state");
  }
}

TEST_F(LoadErrorsTest, OptimizerJson) {
  ExpectError(LoadChanged([](auto*, auto*, std::string* json) { *json = "{}"; }), "not of format 1");
  ExpectError(LoadChanged([](auto*, auto*, std::string* json) { json->replace(json->find("F32"), 3, "BF16"); }),
              "another precision");
  ExpectError(LoadChanged([](auto*, auto*, std::string* json) {
                json->replace(json->find("language_model.embed"), 20, "language_model.ember");
              }),
              "no step count for language_model.embed.weight");
}

TEST_F(LoadErrorsTest, WeightsAloneWithRenamingAndAPart) {
  Folder text;
  for (const auto& [name, file] : *folder_) {
    if (name.rfind("llm", 0) != 0) continue;
    text[name] = file;
    for (TensorImage& tensor : text[name].tensors) tensor.name = tensor.name.substr(std::string("language_").size());
  }
  MemorySource source(text, false);
  WeightMapping mapping;
  mapping.rename = [](const std::string& name) { return "language_" + name; };
  mapping.required = {"llm"};
  const auto before = AllWeights(rank_.store());
  ASSERT_TRUE(LoadWeights(mapping, &source, rank_.store()).ok());
  for (const auto& [name, weight] : AllWeights(rank_.store())) {
    EXPECT_EQ(EqualBits(weight, before.at(name)), name.rfind("language_model", 0) != 0) << name;
  }
  mapping.required = {};
  ExpectError(LoadWeights(mapping, &source, rank_.store()), "weights lack a parameter of the model: vision_tower");
}

}  // namespace
}  // namespace vlm::train
