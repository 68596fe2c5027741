// Every operation: finite differences in fp64, and hand-written fp32 kernels against the fp64 definition.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/random.h"
#include "model/ops/activation.h"
#include "model/ops/attention.h"
#include "model/ops/linear.h"
#include "model/ops/norm.h"
#include "model/ops/rotary.h"
#include "model/ops/rows.h"
#include "model/ops/token_loss.h"

namespace vlm::model::ops {
namespace {

constexpr double kStep = 1e-5;
constexpr double kRelative = 1e-7;  // of a central difference with this step, for functions of size one
constexpr double kFp32Relative = 2e-6;

at::Tensor Random(std::vector<int64_t> shape, const char* name) {
  at::Tensor result = at::empty(shape, at::kDouble);
  Rng rng(RngKey{11}.Derive(name));
  for (int64_t i = 0; i < result.numel(); ++i) result.mutable_data_ptr<double>()[i] = rng.Normal();
  return result;
}

// d<f(), weights>/dx by central differences, changing x in place.
at::Tensor Numeric(at::Tensor x, const std::function<at::Tensor()>& f, const at::Tensor& weights) {
  at::Tensor result = at::empty_like(x);
  for (int64_t i = 0; i < x.numel(); ++i) {
    double* value = x.mutable_data_ptr<double>() + i;
    const double before = *value;
    *value = before + kStep;
    const double up = (f() * weights).sum().item<double>();
    *value = before - kStep;
    const double down = (f() * weights).sum().item<double>();
    *value = before;
    result.mutable_data_ptr<double>()[i] = (up - down) / (2 * kStep);
  }
  return result;
}

void ExpectClose(const at::Tensor& got, const at::Tensor& expected, double relative, const char* what) {
  const double error = (got.to(at::kDouble) - expected.to(at::kDouble)).norm().item<double>();
  EXPECT_LE(error, relative * expected.to(at::kDouble).norm().item<double>() + 1e-9) << what;
}

class OpsTest : public ::testing::Test {
 private:
  c10::NoGradGuard no_grad_;
};

TEST_F(OpsTest, NormGradients) {
  const at::Tensor x = Random({5, 7}, "x"), w = Random({7}, "w"), b = Random({7}, "b"), dy = Random({5, 7}, "dy");
  const at::Tensor residual = Random({5, 7}, "r");
  const auto rms = [&] { return RmsNorm(x, w, 1e-6); };
  const auto layer = [&] { return LayerNorm(x, w, b, 1e-6); };
  at::Tensor dw = at::ones({7}, at::kDouble), db = at::ones({7}, at::kDouble);
  at::Tensor dx = RmsNormBackward(dy, x, w, RmsNormForward(x, w, 1e-6), {residual, dw, {}});
  ExpectClose(dx - residual, Numeric(x, rms, dy), kRelative, "rms dx");
  ExpectClose(dw - 1, Numeric(w, rms, dy), kRelative, "rms dw");
  dw.fill_(1);
  dx = LayerNormBackward(dy, x, w, LayerNormForward(x, w, b, 1e-6), {{}, dw, db});
  ExpectClose(dx, Numeric(x, layer, dy), kRelative, "layer dx");
  ExpectClose(dw - 1, Numeric(w, layer, dy), kRelative, "layer dw");
  ExpectClose(db - 1, Numeric(b, layer, dy), kRelative, "layer db");
}

TEST_F(OpsTest, Fp32NormsMatchTheDefinition) {
  for (const int64_t rows : {1, 3, 64, 65, 200}) {
    for (const int64_t width : {1, 5, 16, 67}) {
      const at::Tensor x = Random({rows, width}, "x"), w = Random({width}, "w"), b = Random({width}, "b");
      const at::Tensor dy = Random({rows, width}, "dy"), residual = Random({rows, width}, "r");
      const auto f = [](const at::Tensor& t) { return t.to(at::kFloat); };
      // The smallest widths lose digits in the cancellation of LayerNorm's own formula.
      const double tolerance = width < 5 ? 1e-3 : 2e-5;
      for (const bool layer : {false, true}) {
        const auto run = [&](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, const at::Tensor& dy,
                             const at::Tensor& r) {
          const Normalized n = layer ? LayerNormForward(x, w, b, 1e-3) : RmsNormForward(x, w, 1e-3);
          at::Tensor dw = at::zeros_like(w), db = at::zeros_like(w);
          const at::Tensor dx =
              layer ? LayerNormBackward(dy, x, w, n, {r, dw, db}) : RmsNormBackward(dy, x, w, n, {r, dw, {}});
          return std::vector<at::Tensor>{n.y_ND, dx, dw, db};
        };
        const auto truth = run(x, w, b, dy, residual), got = run(f(x), f(w), f(b), f(dy), f(residual));
        for (size_t i = 0; i < truth.size(); ++i) ExpectClose(got[i], truth[i], tolerance, layer ? "layer" : "rms");
      }
    }
  }
}

TEST_F(OpsTest, LinearGradients) {
  const at::Tensor flat = Random({3 * 4 + 2 * 4}, "w"), x = Random({5, 4}, "x"), dy = Random({5, 5}, "dy");
  const Params params = {flat.narrow(0, 0, 12).view({3, 4}), flat.narrow(0, 12, 8).view({2, 4}), Random({3}, "b"),
                         Random({2}, "c")};
  const LinearGroup group = {{0, 2}, {1, 3}};
  ASSERT_TRUE(Adjacent({params[0], params[1]}).defined());
  ASSERT_FALSE(Adjacent({params[1], params[0]}).defined());
  const auto f = [&] { return Linear(params, group, x); };
  GradSink sink;
  for (const at::Tensor& p : params) sink.slots.push_back(at::ones_like(p));
  AddLinearParameterGradients(params, group, dy, x, &sink);
  for (size_t i = 0; i < params.size(); ++i) {
    ExpectClose(sink.slots[i] - 1, Numeric(params[i], f, dy), kRelative, "parameter");
  }
  ExpectClose(LinearInputGradient(params, group, dy), Numeric(x, f, dy), kRelative, "dx");
  const at::Tensor residual = Random({5, 3}, "r");
  ExpectClose(LinearAdd(params, group[0], x, residual), residual + at::mm(x, params[0].t()) + params[2], 1e-14, "add");
  // Separate weights give the same function.
  const Params apart = {params[0].clone(), params[1].clone(), params[2], params[3]};
  ExpectClose(Linear(apart, group, x), f(), 1e-14, "apart");
  ExpectClose(LinearInputGradient(apart, group, dy), LinearInputGradient(params, group, dy), 1e-14, "apart dx");
}

// Few rows take a kernel of their own: the values of the definition, and for a row the same bits beside any others.
TEST_F(OpsTest, LinearOfFewRowsMatchesTheDefinition) {
  const at::Tensor weight = Random({83, 37}, "w"), bias = Random({83}, "b");
  const LinearGroup group = {{0, 1}};
  const Params wide = {weight, bias}, narrow = {weight.to(at::kFloat), bias.to(at::kFloat)};
  at::Tensor last;
  for (const int64_t rows : {1, 2, 3, 8, 15, 16, 17}) {
    const at::Tensor x = Random({rows, 37}, "x"), residual = Random({rows, 83}, "r");
    const at::Tensor fp32 = x.to(at::kFloat), got = Linear(narrow, group, fp32);
    ExpectClose(got, Linear(wide, group, x), kFp32Relative, "linear");
    ExpectClose(Linear(narrow, {{0}}, fp32), Linear(wide, {{0}}, x), kFp32Relative, "no bias");
    ExpectClose(LinearAdd(narrow, group[0], fp32, residual.to(at::kFloat)), LinearAdd(wide, group[0], x, residual),
                kFp32Relative, "residual");
    if (last.defined() && rows <= 16) EXPECT_TRUE(at::equal(got.narrow(0, 0, last.size(0)), last)) << rows;
    last = got;
  }
}

TEST_F(OpsTest, ColumnSums) {
  for (const int64_t rows : {0, 1, 64, 65, 300}) {
    const at::Tensor y = Random({rows, 9}, "y");
    ExpectClose(ColumnSum(y.to(at::kFloat)), y.sum(0), kFp32Relative, "sum");
  }
}

TEST_F(OpsTest, ActivationGradients) {
  const at::Tensor x = Random({5, 8}, "x"), half = Random({5, 4}, "dy"), full = Random({5, 8}, "dz");
  ExpectClose(SwiGluBackward(half, x), Numeric(x, [&] { return SwiGlu(x); }, half), kRelative, "swiglu");
  for (const GeluKind kind : {GeluKind::kTanh, GeluKind::kErf}) {
    ExpectClose(GeluBackward(full, x, kind), Numeric(x, [&] { return Gelu(x, kind); }, full), kRelative, "gelu");
  }
  const at::Tensor wide = Random({130, 74}, "wide"), dy = Random({130, 37}, "dwide");
  ExpectClose(SwiGlu(wide.to(at::kFloat)), SwiGlu(wide), kFp32Relative, "fp32 swiglu");
  ExpectClose(SwiGluBackward(dy.to(at::kFloat), wide.to(at::kFloat)), SwiGluBackward(dy, wide), kFp32Relative,
              "fp32 swiglu backward");
  const GeluKind tanh = GeluKind::kTanh;
  const at::Tensor spread = wide * 4;  // into both tails
  ExpectClose(Gelu(spread.to(at::kFloat), tanh), Gelu(spread, tanh), kFp32Relative, "fp32 gelu");
  ExpectClose(GeluBackward(wide.to(at::kFloat), spread.to(at::kFloat), tanh), GeluBackward(wide, spread, tanh),
              kFp32Relative, "fp32 gelu backward");
}

TEST_F(OpsTest, RotaryIsARotationOfHalves) {
  const at::Tensor x = Random({6, 3, 8}, "x"), dy = Random({6, 3, 8}, "dy");
  const at::Tensor table = RotaryTable(at::arange(6, at::kLong), 100.0, 8);
  at::Tensor back = at::empty_like(x);
  RotateInto(dy, table, /*inverse=*/true, back);
  ExpectClose(back, Numeric(x, [&] { return Rotate(x, table); }, dy), kRelative, "gradient");
  // Element j turns with element j + E/2 by position * theta^(-2j/E).
  const double angle = 4 * std::pow(100.0, -2.0 / 8);
  const at::Tensor turned = Rotate(x, table);
  const auto at_ = [](const at::Tensor& t, int64_t j) { return t[4][2][j].item<double>(); };
  EXPECT_NEAR(at_(turned, 1), at_(x, 1) * std::cos(angle) - at_(x, 5) * std::sin(angle), 1e-6);
  EXPECT_NEAR(at_(turned, 5), at_(x, 5) * std::cos(angle) + at_(x, 1) * std::sin(angle), 1e-6);
  // The fp32 kernel, in place on a slice.
  const at::Tensor buffer = Random({6, 40}, "buffer").to(at::kFloat), before = buffer.clone();
  const at::Tensor slice = buffer.narrow(1, 8, 24).view({6, 3, 8});
  RotateInto(slice, table, /*inverse=*/false, slice);
  ExpectClose(slice, Rotate(before.narrow(1, 8, 24).view({6, 3, 8}), table), kFp32Relative, "slice");
  EXPECT_TRUE(at::equal(buffer.narrow(1, 0, 8), before.narrow(1, 0, 8)));
  EXPECT_TRUE(at::equal(buffer.narrow(1, 32, 8), before.narrow(1, 32, 8)));
}

TEST_F(OpsTest, AttentionGradients) {
  struct Case {
    std::vector<int64_t> starts;
    int64_t heads, key_heads;
  };
  const std::vector<Case> cases = {
      {{0, 5}, 2, 2}, {{0, 3, 6, 9, 10}, 4, 2}, {{0, 1, 4, 7}, 4, 1}, {{0, 4, 8}, 6, 3}, {{0, 2, 4, 6}, 3, 3}};
  for (const Case& c : cases) {
    const int64_t tokens = c.starts.back();
    for (const AttentionRule rule : {AttentionRule::kCausal, AttentionRule::kBidirectional}) {
      const AttentionInput in = {Random({tokens, c.heads, 6}, "q"), Random({tokens, c.key_heads, 6}, "k"),
                                 Random({tokens, c.key_heads, 6}, "v")};
      const at::Tensor dy = Random({tokens, c.heads, 6}, "dy");
      const auto f = [&] { return Attention(in, c.starts, rule); };
      AttentionTape tape = AttentionTape::Record(in, c.starts, rule);
      ExpectClose(tape.out_NHE(), f(), 1e-12, "forward");
      const AttentionInput d = {at::empty_like(in.q_NHE), at::empty_like(in.k_NGE), at::empty_like(in.v_NGE)};
      tape.Backward(dy, d);
      ExpectClose(d.q_NHE, Numeric(in.q_NHE, f, dy), kRelative, "dq");
      ExpectClose(d.k_NGE, Numeric(in.k_NGE, f, dy), kRelative, "dk");
      ExpectClose(d.v_NGE, Numeric(in.v_NGE, f, dy), kRelative, "dv");
    }
  }
}

// softmax(q k^T / sqrt(E)) v written out, as the meaning of the definition.
TEST_F(OpsTest, AttentionIsSoftmaxOfScaledProducts) {
  const AttentionInput in = {Random({4, 2, 6}, "q"), Random({4, 1, 6}, "k"), Random({4, 1, 6}, "v")};
  const at::Tensor out = Attention(in, {0, 1, 4}, AttentionRule::kCausal);
  for (int64_t head = 0; head < 2; ++head) {
    // Token 2 is the second of its document: it sees tokens 1 and 2.
    const at::Tensor scores = at::mv(in.k_NGE.narrow(0, 1, 2).select(1, 0), in.q_NHE[2][head]) / std::sqrt(6.0);
    const at::Tensor expected = at::mv(in.v_NGE.narrow(0, 1, 2).select(1, 0).t(), at::softmax(scores, 0));
    ExpectClose(out[2][head], expected, 1e-12, "head");
    ExpectClose(out[0][head], in.v_NGE[0][0], 1e-12, "alone");
  }
}

TEST_F(OpsTest, RowGradients) {
  const at::Tensor weight = Random({7, 3}, "w"), dy = Random({5, 3}, "dy");
  const at::Tensor ids = at::tensor({2, 6, 2, 0, 2}, at::kLong);
  at::Tensor slot = at::ones_like(weight);
  AddEmbeddingGradient(dy, ids, slot);
  ExpectClose(slot - 1, Numeric(weight, [&] { return Embed(weight, ids); }, dy), kRelative, "embedding");
  at::Tensor slot32 = at::ones({7, 3}, at::kFloat);
  AddEmbeddingGradient(dy.to(at::kFloat), ids, slot32);
  ExpectClose(slot32, slot, kFp32Relative, "fp32");
  slot32.fill_(1);
  AddEmbeddingGradient(dy.to(at::kBFloat16), ids, slot32);
  ExpectClose(slot32, slot, 1e-2, "bf16 into fp32");
  at::Tensor slot16 = at::ones({7, 3}, at::kBFloat16);
  AddEmbeddingGradient(dy.to(at::kBFloat16), ids, slot16);
  ExpectClose(slot16, slot, 2e-2, "bf16");
  const at::Tensor replaced = ReplaceRows(dy, at::tensor({4, 1}, at::kLong), weight.narrow(0, 0, 2));
  EXPECT_TRUE(at::equal(replaced[4], weight[0]));
  EXPECT_TRUE(at::equal(replaced[1], weight[1]));
  EXPECT_TRUE(at::equal(replaced[0], dy[0]));
}

// A bf16 sum of 1s ends at 256: the next one no longer moves it.
TEST_F(OpsTest, Bf16RowGradientsOfManyTokensAreNotLost) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    at::Tensor slot = at::zeros({3, 2}, at::kBFloat16);
    AddEmbeddingGradient(at::ones({400, 2}, type), at::full({400}, 1, at::kLong), slot);
    EXPECT_TRUE(at::equal(slot[1], at::full({2}, 400, at::kBFloat16))) << slot;
    EXPECT_TRUE(at::equal(slot[0], at::zeros({2}, at::kBFloat16)));
    const at::Tensor strided = at::zeros({3, 4}, at::kBFloat16);
    AddEmbeddingGradient(at::ones({400, 2}, type), at::full({400}, 1, at::kLong), strided.slice(1, 0, 4, 2));
    EXPECT_EQ(strided[1][2].item<float>(), 400) << strided;
  }
}

// ReplaceRows and LinearAdd have no backward of their own: autograd over the definition, against differences.
TEST_F(OpsTest, ReplaceRowsAndLinearAddGradients) {
  const auto expect_gradients = [](std::vector<at::Tensor> leaves, const std::function<at::Tensor()>& f) {
    const at::Tensor dy = Random(f().sizes().vec(), "dy");
    std::vector<at::Tensor> numeric;
    for (const at::Tensor& leaf : leaves) numeric.push_back(Numeric(leaf, f, dy));
    const c10::AutoGradMode recording(true);
    for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
    f().backward(dy);
    for (size_t i = 0; i < leaves.size(); ++i) ExpectClose(leaves[i].grad(), numeric[i], kRelative, "gradient");
  };
  const at::Tensor x = Random({5, 3}, "x"), y = Random({2, 3}, "y"), rows = at::tensor({4, 1}, at::kLong);
  expect_gradients({x, y}, [&] { return ReplaceRows(x, rows, y); });
  const Params params = {Random({3, 4}, "w"), Random({3}, "b")};
  const at::Tensor in = Random({5, 4}, "in"), residual = Random({5, 3}, "r");
  expect_gradients({in, residual, params[0], params[1]}, [&] { return LinearAdd(params, {0, 1}, in, residual); });
}

class TokenLossTest : public OpsTest, public ::testing::WithParamInterface<bool> {};

TEST_P(TokenLossTest, HeadGradients) {
  const bool known = GetParam();
  const at::Tensor hidden = Random({5, 4}, "h"), weight = Random({11, 4}, "w");
  const HeadInput in = {hidden, weight, at::tensor({3, 0, 10, 3, 7}, at::kLong)};
  const HeadResults seeds = {Random({5}, "a"), Random({5}, "b"), Random({5}, "c")};
  const at::Tensor stacked = at::stack({seeds.logp_K, seeds.lse_K, seeds.mean_logit_K});
  const auto f = [&] {
    const HeadResults r = HeadDefinition(in);
    return at::stack({r.logp_K, r.lse_K, r.mean_logit_K});
  };
  const TokenCoefficients k = CoefficientsFromGradients(seeds, 5, 11, hidden.options());
  at::Tensor slot = at::ones_like(weight);
  HeadGradients gradients;
  if (known) {
    const HeadPass pass = HeadForwardBackward(in, k, {true, true, slot});
    ExpectClose(at::stack({pass.results.logp_K, pass.results.lse_K, pass.results.mean_logit_K}), f(), 1e-13, "forward");
    gradients = pass.gradients;
  } else {
    const HeadResults results = HeadForward(in);
    ExpectClose(at::stack({results.logp_K, results.lse_K, results.mean_logit_K}), f(), 1e-13, "forward");
    gradients = HeadBackward(in, results.lse_K, k, {true, true, slot});
  }
  ExpectClose(gradients.d_hidden_KD, Numeric(hidden, f, stacked), kRelative, "d_hidden");
  ExpectClose(slot - 1, Numeric(weight, f, stacked), kRelative, "d_weight");
}

// More targets than one chunk holds, in fp32.
TEST_P(TokenLossTest, ChunksChangeNothing) {
  const int64_t vocabulary = 30011, targets = 2 * TargetsPerChunk(vocabulary) + 3;
  const at::Tensor hidden = Random({targets, 6}, "h"), weight = Random({vocabulary, 6}, "w");
  const at::Tensor ids = (at::arange(targets, at::kLong) * 7919) % vocabulary;
  const HeadResults seeds = {Random({targets}, "a"), Random({targets}, "b"), Random({targets}, "c")};
  const auto run = [&](at::ScalarType type) {
    const HeadInput in = {hidden.to(type), weight.to(type), ids};
    const TokenCoefficients k = CoefficientsFromGradients(seeds, targets, vocabulary, hidden.options());
    if (GetParam()) {
      const HeadPass pass = HeadForwardBackward(in, k, {});
      return std::vector<at::Tensor>{pass.results.logp_K, pass.results.lse_K, pass.results.mean_logit_K,
                                     pass.gradients.d_hidden_KD, pass.gradients.d_weight_VD};
    }
    const HeadResults r = HeadForward(in);
    const HeadGradients g = HeadBackward(in, r.lse_K, k, {});
    return std::vector<at::Tensor>{r.logp_K, r.lse_K, r.mean_logit_K, g.d_hidden_KD, g.d_weight_VD};
  };
  const auto got = run(at::kFloat), truth = run(at::kDouble);
  const HeadResults definition = HeadDefinition({hidden, weight, ids});
  ExpectClose(truth[0], definition.logp_K, 1e-12, "logp");
  ExpectClose(truth[1], definition.lse_K, 1e-12, "lse");
  for (size_t i = 0; i < got.size(); ++i) ExpectClose(got[i], truth[i], 1e-5, "fp32");
}

INSTANTIATE_TEST_SUITE_P(Paths, TokenLossTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "known" : "recomputed"; });

TEST_F(OpsTest, NoTargetsGiveEmptyResultsAndZeroGradients) {
  const HeadInput in = {at::zeros({0, 4}), at::ones({11, 4}), at::zeros({0}, at::kLong)};
  const HeadPass pass = HeadForwardBackward(in, {at::zeros({0}), at::zeros({0}), at::zeros({0})}, {});
  EXPECT_EQ(pass.results.logp_K.numel(), 0);
  EXPECT_EQ(pass.gradients.d_weight_VD.abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace vlm::model::ops
