// Equal bits: for one and two threads, and for documents whose neighbours change; packed against alone.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/llava.h"
#include "model/ops/norm.h"
#include "model/ops/token_loss.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using testing::Layout;
using testing::ParameterSet;
using testing::PassResult;

class ThreadsTest : public ::testing::Test {
 protected:
  ~ThreadsTest() override { at::set_num_threads(1); }
};

TEST_F(ThreadsTest, OneAndTwoThreadsGiveTheSameBits) {
  const LlavaConfig config = testing::WideLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok()) << graph.status();
  const ParameterSet parameters = testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat);
  const MicroBatch batch = testing::RandomBatch(config, {{150, 1}, {97, 0}, {150, 1}, {150, 0}, {230, 3}, {11, 0}}, 5);
  for (const bool known : {false, true}) {
    at::set_num_threads(1);
    const PassResult one = testing::RunPass(*graph, parameters, batch, {.known_coefficients = known});
    at::set_num_threads(2);
    ASSERT_EQ(at::get_num_threads(), 2);
    const PassResult two = testing::RunPass(*graph, parameters, batch, {.known_coefficients = known});
    EXPECT_EQ(one.loss, two.loss);
    for (size_t i = 0; i < one.gradients.size(); ++i) {
      EXPECT_TRUE(at::equal(one.gradients[i], two.gradients[i])) << graph->params[i].name;
    }
    for (size_t i = 0; i < one.values.size(); ++i) {
      if (one.values[i].defined()) EXPECT_TRUE(at::equal(one.values[i], two.values[i])) << graph->values[i].name;
    }
  }
}

// Documents one after another on one token axis.
MicroBatch Packed(const std::vector<MicroBatch>& parts) {
  MicroBatch all;
  std::vector<at::Tensor> ids, positions, index, target, weight, rows, pixels;
  for (const MicroBatch& part : parts) {
    ids.push_back(part.ids_N), positions.push_back(part.positions_N);
    index.push_back(part.target_index_K + all.counts.tokens);
    target.push_back(part.target_id_K), weight.push_back(part.target_weight_K);
    for (size_t d = 0; d + 1 < part.document_starts.size(); ++d) {
      all.document_starts.push_back(part.document_starts[d] + all.counts.tokens);
    }
    if (part.counts.images > 0) {
      rows.push_back(part.image_row_V + all.counts.tokens);
      pixels.push_back(part.pixels);
    }
    all.counts.tokens += part.counts.tokens, all.counts.targets += part.counts.targets;
    all.counts.documents += part.counts.documents, all.counts.images += part.counts.images;
    all.counts.vision_tokens += part.counts.vision_tokens;
  }
  all.document_starts.push_back(all.counts.tokens);
  all.ids_N = at::cat(ids), all.positions_N = at::cat(positions), all.target_index_K = at::cat(index);
  all.target_id_K = at::cat(target), all.target_weight_K = at::cat(weight);
  if (all.counts.images > 0) all.image_row_V = at::cat(rows), all.pixels = at::cat(pixels);
  return all;
}

double Distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>();
}

class LeakTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto graph = BuildLlava(config_);
    ASSERT_TRUE(graph.ok()) << graph.status();
    graph_ = std::move(*graph);
    parameters_ = testing::RandomParameters(graph_, 6, at::kFloat, Layout::kFlat);
    documents_ = {Document({14, 1}, 1), Document({15, 1}, 2), Document({9, 0}, 3), Document({8, 0}, 4)};
  }
  MicroBatch Document(testing::DocumentShape shape, uint64_t seed) const {
    return testing::RandomBatch(config_, {shape}, seed);
  }
  PassResult Run(const std::vector<MicroBatch>& documents) const {
    return testing::RunPass(graph_, parameters_, Packed(documents), {});
  }
  // The rows of one document: logits of all its positions, then log-probabilities of its targets.
  std::vector<at::Tensor> Of(size_t wanted, const std::vector<MicroBatch>& documents, const PassResult& pass) const {
    int64_t token = 0, target = 0;
    for (size_t d = 0; d < wanted; ++d) token += documents[d].counts.tokens, target += documents[d].counts.targets;
    const std::vector<ParamId>& head = graph_.nodes.back().params;
    const at::Tensor normalized = ops::RmsNormForward(pass.values[graph_.FindValue("llm.hidden.2")],
                                                      parameters_.tensors[head[0]], config_.text.rms_norm_eps)
                                      .y_ND;
    const at::Tensor logits = at::mm(normalized, parameters_.tensors[head[1]].t());
    return {logits.narrow(0, token, documents[wanted].counts.tokens),
            pass.values[graph_.results[0]].narrow(0, target, documents[wanted].counts.targets)};
  }

  const LlavaConfig config_ = testing::SmallLlava();
  Graph graph_;
  ParameterSet parameters_;
  std::vector<MicroBatch> documents_;  // one each
};

TEST_F(LeakTest, ADocumentDoesNotSeeItsNeighbours) {
  const PassResult before = Run(documents_);
  for (const size_t changed : {0, 1, 2, 3}) {
    const Counts& counts = documents_[changed].counts;
    // Other content of the same shape; then shorter, longer, with and without pictures.
    for (const MicroBatch& other : {Document({counts.tokens, counts.images}, 7), Document({11, 1}, 7),
                                    Document({30, 2}, 7), Document({12, 0}, 7)}) {
      std::vector<MicroBatch> documents = documents_;
      documents[changed] = other;
      const PassResult after = Run(documents);
      // A product of another number of rows may be blocked, and so rounded, in another way.
      const bool same_shape = other.counts.tokens == counts.tokens && other.counts.images == counts.images;
      for (size_t d = 0; d < documents.size(); ++d) {
        const auto was = Of(d, documents_, before), is = Of(d, documents, after);
        for (size_t i = 0; i < was.size(); ++i) {
          SCOPED_TRACE(::testing::Message() << (i == 0 ? "logits" : "logp") << " of document " << d << ", changed "
                                            << changed << " to " << other.counts.tokens << " tokens");
          if (d == changed) {
            EXPECT_FALSE(at::equal(was[i], is[i]));
          } else if (same_shape) {
            EXPECT_TRUE(at::equal(was[i], is[i]));
          } else {
            EXPECT_LE(Distance(was[i], is[i]), 1e-6 * was[i].norm().item<double>());
          }
        }
      }
    }
  }
}

// Where only one document has target weight, the gradients are its own whatever the others hold.
TEST_F(LeakTest, GradientsOfADocumentDoNotSeeItsNeighbours) {
  for (const size_t kept : {0, 3}) {
    const auto run = [&](std::vector<MicroBatch> documents) {
      for (size_t d = 0; d < documents.size(); ++d) {
        if (d != kept) documents[d].target_weight_K = at::zeros_like(documents[d].target_weight_K);
      }
      return Run(documents);
    };
    const PassResult before = run(documents_);
    std::vector<MicroBatch> documents = documents_;
    documents[1] = Document({15, 1}, 7), documents[2] = Document({9, 0}, 8);
    const PassResult after = run(documents);
    for (size_t i = 0; i < graph_.params.size(); ++i) {
      EXPECT_TRUE(at::equal(before.gradients[i], after.gradients[i])) << graph_.params[i].name;
    }
    documents[kept] = Document({kept == 0 ? 14 : 8, kept == 0 ? 1 : 0}, 9);
    const ParamId norm = graph_.nodes.back().params[0];
    EXPECT_FALSE(at::equal(before.gradients[norm], run(documents).gradients[norm]));
  }
}

TEST_F(LeakTest, PackedEqualsAlone) {
  const PassResult packed = Run(documents_);
  std::vector<at::Tensor> sums;
  double squares = 0;
  for (const at::Tensor& gradient : packed.gradients) {
    sums.push_back(at::zeros_like(gradient, at::kDouble));
    squares += gradient.to(at::kDouble).square().sum().item<double>();
  }
  for (size_t d = 0; d < documents_.size(); ++d) {
    const std::vector<MicroBatch> one = {documents_[d]};
    const PassResult alone = Run(one);
    const auto mine = Of(0, one, alone), theirs = Of(d, documents_, packed);
    for (size_t i = 0; i < mine.size(); ++i) {
      EXPECT_LE(Distance(mine[i], theirs[i]), 1e-6 * mine[i].norm().item<double>()) << i << " of document " << d;
    }
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += alone.gradients[i];
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    EXPECT_LE(Distance(packed.gradients[i], sums[i]), 1e-6 * sums[i].norm().item<double>() + 1e-7 * std::sqrt(squares))
        << graph_.params[i].name;
  }
}

TEST_F(LeakTest, AModelIsCausal) {
  MicroBatch batch = Document({20, 0}, 5);
  const ValueId hidden = graph_.FindValue("llm.hidden.2");
  const at::Tensor before = testing::RunPass(graph_, parameters_, batch, {}).values[hidden];
  batch.ids_N = batch.ids_N.clone();
  batch.ids_N[12] = 60 + (batch.ids_N[12].item<int64_t>() == 60);
  const at::Tensor after = testing::RunPass(graph_, parameters_, batch, {}).values[hidden];
  EXPECT_TRUE(at::equal(before.narrow(0, 0, 12), after.narrow(0, 0, 12)));
  EXPECT_FALSE(at::equal(before.narrow(0, 12, 8), after.narrow(0, 12, 8)));
}

}  // namespace
}  // namespace vlm::model
