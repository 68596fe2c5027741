// Matrix products have the bits of one thread on any number of threads, narrow shapes included.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "model/ops/linear.h"
#include "model/ops/token_loss.h"

namespace vlm::model::ops {
namespace {

class ProductsTest : public ::testing::Test {
 protected:
  ~ProductsTest() override { at::set_num_threads(1); }
};

at::Tensor Wave(double seed, std::vector<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return at::sin(at::arange(count, at::kDouble) * 1.7 + seed).to(at::kFloat).view(shape);
}

// Forward, gradient of the input, gradient of the weights, and the head's, of N rows, D inputs and O outputs.
std::vector<at::Tensor> Products(int64_t n, int64_t d, int64_t o) {
  const c10::NoGradGuard no_grad;  // as the engine calls them
  const Params params = {Wave(1, {o, d}), Wave(2, {o})};
  const at::Tensor x = Wave(3, {n, d}), dy = Wave(4, {n, o});
  GradSink sink{{at::zeros({o, d}), at::zeros({o})}};
  AddLinearParameterGradients(params, {{0, 1}}, dy, x, &sink);
  const at::Tensor targets = at::arange(n, at::kLong).remainder(o);
  const TokenCoefficients coefficients{at::full({n}, -0.9), at::ones({n}),
                                       at::full({n}, -0.1 / static_cast<double>(o))};
  const HeadPass head = HeadForwardBackward({x, params[0], targets}, coefficients, {});
  return {Linear(params, {{0, 1}}, x),
          LinearAdd(params, {0, 1}, x, dy),
          LinearInputGradient(params, {{0, 1}}, dy),
          sink.slots[0],
          sink.slots[1],
          head.results.logp_K,
          head.gradients.d_hidden_KD,
          head.gradients.d_weight_VD};
}

TEST_F(ProductsTest, AnyNumberOfThreadsGivesTheBitsOfOne) {
  int differing_without_care = 0;
  for (const int64_t n : {4, 5, 7, 9, 11, 19, 33, 64, 97, 130}) {
    for (const auto& [d, o] : std::vector<std::pair<int64_t, int64_t>>{{24, 24}, {40, 48}, {48, 97}, {107, 300}}) {
      at::set_num_threads(1);
      const std::vector<at::Tensor> one = Products(n, d, o);
      const at::Tensor weight = Wave(1, {o, d}), bias = Wave(2, {o}), x = Wave(3, {n, d});
      const at::Tensor plain = at::linear(x, weight, bias);
      for (const int threads : {2, 3, 4}) {
        at::set_num_threads(threads);
        const std::vector<at::Tensor> several = Products(n, d, o);
        for (size_t i = 0; i < one.size(); ++i) {
          EXPECT_TRUE(at::equal(one[i], several[i]))
              << "product " << i << " of " << n << " x " << d << " x " << o << " on " << threads << " threads";
        }
        differing_without_care += at::equal(plain, at::linear(x, weight, bias)) ? 0 : 1;
      }
    }
  }
  // None: the library on this processor does not need ProductThreads for these shapes, and this test would not miss it
  // (tests/mutations/narrow-products-on-all-threads.patch).
  RecordProperty("products_differing_without_care", differing_without_care);
  GTEST_LOG_(INFO) << differing_without_care << " plain products differ from one thread's on this processor";
}

// For results of one shape, each an operand of a sum over `depth`.
struct DeepOperands {
  DeepOperands(int64_t rows, int64_t columns, int64_t depth)
      : left(Wave(1, {rows, depth})), right(Wave(2, {columns, depth})), hidden(Wave(5, {rows, columns})) {
    left_transposed = left.t().contiguous();
    right_transposed = right.t().contiguous();
  }
  at::Tensor left, right, left_transposed, right_transposed, hidden;
};

// Every kind of product: the sums over weights' inputs, over their outputs, over tokens, and, in the head, over the
// vocabulary.
std::vector<at::Tensor> DeepProducts(const DeepOperands& of) {
  const c10::NoGradGuard no_grad;
  const int64_t rows = of.left.size(0), columns = of.right.size(0);
  GradSink sink{{at::ones({rows, columns})}};
  AddLinearParameterGradients({sink.slots[0]}, {{0}}, of.left_transposed, of.right_transposed, &sink);
  const at::Tensor targets = at::arange(rows, at::kLong);
  const TokenCoefficients coefficients{at::full({rows}, -0.9), at::ones({rows}), at::zeros({rows})};
  return {Linear({of.right}, {{0}}, of.left), LinearInputGradient({of.right_transposed}, {{0}}, of.left), sink.slots[0],
          HeadForwardBackward({of.hidden, of.right_transposed, targets}, coefficients, {}).gradients.d_hidden_KD};
}

TEST_F(ProductsTest, DeepSumsHaveTheBitsOfOneThread) {
  for (const int64_t depth : {1'024, 4'096, 16'384}) {
    // Results of 105 columns and fewer, and of 203 for 8 threads, are those that MKL rounds otherwise.
    for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{
             {64, 64}, {430, 105}, {512, 194}, {100, 512}, {256, 384}, {512, 512}}) {
      at::set_num_threads(1);
      const DeepOperands operands(rows, columns, depth);
      const std::vector<at::Tensor> one = DeepProducts(operands);
      for (const int threads : {2, 4, 8}) {
        at::set_num_threads(threads);
        const std::vector<at::Tensor> several = DeepProducts(operands);
        for (size_t i = 0; i < one.size(); ++i) {
          EXPECT_TRUE(at::equal(one[i], several[i])) << "product " << i << " of " << rows << " x " << columns
                                                     << " over " << depth << " on " << threads << " threads";
        }
      }
    }
  }
}

}  // namespace
}  // namespace vlm::model::ops
