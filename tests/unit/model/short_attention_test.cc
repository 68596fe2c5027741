// The fp32 attention of short documents against the fp64 definition and its gradients.
#include "model/ops/short_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/random.h"
#include "model/ops/attention.h"

namespace vlm::model::ops {
namespace {

constexpr double kRelative = 3e-6;

struct Case {
  std::vector<int64_t> lengths;
  int64_t heads, key_heads, size;
};

std::string Name(const Case& c, AttentionRule rule) {
  std::string name = rule == AttentionRule::kCausal ? "causal," : "both ways,";
  for (const int64_t length : c.lengths) name += " " + std::to_string(length);
  return name + " tokens, heads " + std::to_string(c.heads) + " on " + std::to_string(c.key_heads) + ", size " +
         std::to_string(c.size);
}

std::vector<int64_t> Starts(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> starts = {0};
  for (const int64_t length : lengths) starts.push_back(starts.back() + length);
  return starts;
}

at::Tensor Random(std::vector<int64_t> shape, const char* name) {
  at::Tensor result = at::empty(shape, at::kFloat);
  Rng rng(RngKey{31}.Derive(name));
  for (int64_t i = 0; i < result.numel(); ++i) result.mutable_data_ptr<float>()[i] = static_cast<float>(rng.Normal());
  return result;
}

// q, k and v as slices of one matrix, as a block has them.
AttentionInput Slices(const at::Tensor& matrix, const Case& c) {
  const auto part = [&](int64_t first, int64_t count) {
    return matrix.narrow(1, first * c.size, count * c.size).view({matrix.size(0), count, c.size});
  };
  return {part(0, c.heads), part(c.heads, c.key_heads), part(c.heads + c.key_heads, c.key_heads)};
}

struct Pass {
  at::Tensor matrix, d_out, out, d_matrix;
};

Pass Compute(const Case& c, AttentionRule rule) {
  const std::vector<int64_t> starts = Starts(c.lengths);
  const int64_t width = (c.heads + 2 * c.key_heads) * c.size;
  Pass pass{Random({starts.back(), width}, "matrix"), Random({starts.back(), c.heads, c.size}, "d_out"), {}, {}};
  AttentionTape tape = AttentionTape::Record(Slices(pass.matrix, c), starts, rule);
  pass.out = tape.out_NHE().clone();
  pass.d_matrix = at::full({starts.back(), width}, NAN, at::kFloat);
  tape.Backward(pass.d_out, Slices(pass.d_matrix, c));
  return pass;
}

void ExpectClose(const at::Tensor& got, const at::Tensor& expected, const std::string& what) {
  const double error = (got.to(at::kDouble) - expected).norm().item<double>();
  EXPECT_LE(error, kRelative * expected.norm().item<double>() + 1e-9) << what;
}

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {{{1}, 1, 1, 8},
                                          {{7, 33, 1, 16}, 4, 2, 6},
                                          {{128, 128}, 4, 1, 32},
                                          {{31, 32, 33}, 3, 3, 20},
                                          {{kShortAttentionTokensMax}, 2, 1, 16},
                                          {{5}, 2, 2, kShortAttentionSizeMax},
                                          {{0, 9, 0, 4}, 2, 1, 4}};
  return cases;
}

TEST(ShortAttentionTest, EqualsTheDefinitionAndItsGradients) {
  for (const Case& c : Cases()) {
    for (const AttentionRule rule : {AttentionRule::kCausal, AttentionRule::kBidirectional}) {
      const Pass pass = Compute(c, rule);
      const at::Tensor matrix = pass.matrix.to(at::kDouble).requires_grad_(true);
      at::Tensor out;
      {
        const c10::AutoGradMode recording(true);
        out = Attention(Slices(matrix, c), Starts(c.lengths), rule);
        (out * pass.d_out).sum().backward();
      }
      ExpectClose(pass.out, out.detach(), "output, " + Name(c, rule));
      const AttentionInput d = Slices(pass.d_matrix, c), expected = Slices(matrix.grad(), c);
      ExpectClose(d.q_NHE, expected.q_NHE, "dq, " + Name(c, rule));
      ExpectClose(d.k_NGE, expected.k_NGE, "dk, " + Name(c, rule));
      ExpectClose(d.v_NGE, expected.v_NGE, "dv, " + Name(c, rule));
    }
  }
}

// A document longer than the limit goes another way, and its neighbours do not notice.
TEST(ShortAttentionTest, LongAndShortDocumentsStandSideBySide) {
  const Case mixed = {{20, kShortAttentionTokensMax + 1, 3}, 2, 1, 8};
  const Pass pass = Compute(mixed, AttentionRule::kCausal);
  const at::Tensor matrix = pass.matrix.to(at::kDouble).requires_grad_(true);
  at::Tensor out;
  {
    const c10::AutoGradMode recording(true);
    out = Attention(Slices(matrix, mixed), Starts(mixed.lengths), AttentionRule::kCausal);
    (out * pass.d_out).sum().backward();
  }
  ExpectClose(pass.out, out.detach(), "output");
  ExpectClose(pass.d_matrix, matrix.grad(), "gradient");
}

TEST(ShortAttentionTest, BitsDependOnNeitherThreadsNorNeighbours) {
  const Case together = {{40, 40, 13}, 4, 2, 16}, alone = {{40}, 4, 2, 16};
  const Pass one = Compute(together, AttentionRule::kCausal);
  at::set_num_threads(2);
  const Pass two = Compute(together, AttentionRule::kCausal);
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(one.out, two.out));
  EXPECT_TRUE(at::equal(one.d_matrix, two.d_matrix));
  const Pass first = Compute(alone, AttentionRule::kCausal);  // the same numbers as the first document of `together`
  ASSERT_TRUE(at::equal(first.matrix, one.matrix.narrow(0, 0, 40)));
  EXPECT_TRUE(at::equal(first.out, one.out.narrow(0, 0, 40)));
  EXPECT_TRUE(at::equal(first.d_matrix, one.d_matrix.narrow(0, 0, 40)));
}

// Scores whose exponentials overflow unless the largest is taken away first.
TEST(ShortAttentionTest, LargeScoresStayFinite) {
  const Case c = {{24}, 1, 1, 8};
  const at::Tensor matrix = Random({24, 24}, "large") * 60;
  AttentionTape tape = AttentionTape::Record(Slices(matrix, c), {0, 24}, AttentionRule::kCausal);
  const at::Tensor expected = Attention(Slices(matrix.to(at::kDouble), c), {0, 24}, AttentionRule::kCausal);
  ExpectClose(tape.out_NHE(), expected, "output");
}

}  // namespace
}  // namespace vlm::model::ops
