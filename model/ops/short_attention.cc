#include "model/ops/short_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "model/ops/exp.h"
#include "model/ops/parallel.h"

namespace vlm::model::ops {
namespace {

// A tile of a product: kRows rows of two vectors, enough sums in flight to hide the latency of a multiply-add.
constexpr int64_t kRows = 4, kLanes = 8, kColumns = 2 * kLanes;
// Rows whose probabilities are kept until they are added into dk and dv.
constexpr int64_t kBackwardRows = 32;

using Vector = float __attribute__((vector_size(32), aligned(4), may_alias));

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

struct Strided {
  const float* data;
  int64_t row, column;
};

// c[r][0..15] (+)= sum over i < depth of a(r, i) * b[i][0..15], in order of i.
template <bool kAdd>
__attribute__((always_inline)) inline void Tile(const Strided& a, const ConstRows& b, int64_t depth,
                                                const MutableRows& c) {
  Vector sums[kRows][2];
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t half = 0; half < 2; ++half) {
      sums[r][half] = kAdd ? *reinterpret_cast<const Vector*>(c.data + r * c.row + half * kLanes) : Vector{};
    }
  }
  for (int64_t i = 0; i < depth; ++i) {
    const Vector left = *reinterpret_cast<const Vector*>(b.data + i * b.row);
    const Vector right = *reinterpret_cast<const Vector*>(b.data + i * b.row + kLanes);
    const float* column = a.data + i * a.column;
#pragma GCC unroll 4
    for (int64_t r = 0; r < kRows; ++r) {
      const float factor = column[r * a.row];
      sums[r][0] += factor * left;
      sums[r][1] += factor * right;
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t half = 0; half < 2; ++half) {
      *reinterpret_cast<Vector*>(c.data + r * c.row + half * kLanes) = sums[r][half];
    }
  }
}

// Arrays of one head, padded with zeros to whole tiles.
struct Padded {
  int64_t length, size;  // rounded up
  int64_t tokens, real_size;
  bool causal;

  explicit Padded(const ShortAttention& in)
      : length(RoundUp(in.length, kColumns)),
        size(RoundUp(in.size, kColumns)),
        tokens(in.length),
        real_size(in.size),
        causal(in.causal) {}
  int64_t numel() const { return length * size; }
  // Keys that row i sees.
  __attribute__((always_inline)) inline int64_t Visible(int64_t i) const {
    return causal ? std::min(i + 1, tokens) : tokens;
  }
  // Whole tiles of keys that a block of rows ending before `last` sees.
  __attribute__((always_inline)) inline int64_t Columns(int64_t last) const {
    return causal ? std::min(RoundUp(last, kColumns), length) : length;
  }
};

__attribute__((always_inline)) inline void CopyRows(const Padded& p, const ConstRows& source, float* rows) {
  for (int64_t t = 0; t < p.length; ++t) {
    float* row = rows + t * p.size;
    if (t < p.tokens) std::memcpy(row, source.data + t * source.row, p.real_size * sizeof(float));
    const int64_t filled = t < p.tokens ? p.real_size : 0;
    std::fill(row + filled, row + p.size, 0.0f);
  }
}

__attribute__((always_inline)) inline void Transpose(const Padded& p, const float* rows, float* columns) {
  for (int64_t t = 0; t < p.length; ++t) {
    for (int64_t j = 0; j < p.size; ++j) columns[j * p.length + t] = rows[t * p.size + j];
  }
}

__attribute__((always_inline)) inline void WriteRows(const Padded& p, const float* rows, int64_t first, int64_t last,
                                                     const MutableRows& target) {
  for (int64_t t = first; t < std::min(last, p.tokens); ++t) {
    std::memcpy(target.data + t * target.row, rows + (t - first) * p.size, p.real_size * sizeof(float));
  }
}

// Scores of kRows rows of q against the first `columns` keys, unscaled.
__attribute__((always_inline)) inline void Scores(const Padded& p, const float* q, const float* keys_transposed,
                                                  int64_t columns, float* scores) {
  for (int64_t j = 0; j < columns; j += kColumns) {
    Tile<false>({q, p.size, 1}, {keys_transposed + j, p.length}, p.real_size, {scores + j, p.length});
  }
}

// Row of scores to unnormalised probabilities; zeros from `visible` to `columns`. Returns their sum.
__attribute__((always_inline)) inline float Exponentials(float* row, int64_t visible, int64_t columns, float scale,
                                                         float* largest_score) {
  float largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < visible; ++j) largest = row[j] > largest ? row[j] : largest;
  largest *= scale;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < visible; ++j) {
    row[j] = Exp(row[j] * scale - largest);
    sum += row[j];
  }
  std::fill(row + visible, row + columns, 0.0f);
  *largest_score = largest;
  return sum;
}

struct ForwardArrays {
  float *q, *v, *keys_transposed;  // padded
  float *scores, *rows;            // of a block of rows
  ForwardArrays(const Padded& p, float* scratch)
      : q(scratch),
        v(q + p.numel()),
        keys_transposed(v + p.numel()),
        scores(keys_transposed + p.numel()),
        rows(scores + kRows * p.length) {}
  static int64_t Numel(const Padded& p) { return 3 * p.numel() + kRows * (p.length + p.size); }
};

__attribute__((always_inline)) inline void ForwardHead(const Padded& p, const ForwardArrays& a, const MutableRows& out,
                                                       float* lse) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(p.real_size));
  for (int64_t first = 0; first < p.tokens; first += kRows) {
    const int64_t columns = p.Columns(first + kRows);
    Scores(p, a.q + first * p.size, a.keys_transposed, columns, a.scores);
    float inverse[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      float largest = 0;
      const int64_t visible = p.Visible(std::min(first + r, p.tokens - 1));
      const float sum = Exponentials(a.scores + r * p.length, visible, columns, scale, &largest);
      inverse[r] = 1.0f / sum;
      if (first + r < p.tokens) lse[first + r] = largest + std::log(sum);
    }
    for (int64_t j = 0; j < p.size; j += kColumns) {
      Tile<false>({a.scores, p.length, 1}, {a.v + j, p.size}, columns, {a.rows + j, p.size});
    }
    for (int64_t r = 0; r < kRows; ++r) {
#pragma omp simd
      for (int64_t j = 0; j < p.size; ++j) a.rows[r * p.size + j] *= inverse[r];
    }
    WriteRows(p, a.rows, first, first + kRows, out);
  }
}

struct BackwardArrays {
  float *q, *k, *v, *keys_transposed, *values_transposed, *d_out, *dk, *dv;  // padded
  float *probabilities, *d_scores, *rows;                                    // of a block of rows
  explicit BackwardArrays(const Padded& p, float* scratch) {
    for (float** array : {&q, &k, &v, &keys_transposed, &values_transposed, &d_out, &dk, &dv}) {
      *array = scratch;
      scratch += p.numel();
    }
    probabilities = scratch;
    d_scores = probabilities + kBackwardRows * p.length;
    rows = d_scores + kBackwardRows * p.length;
  }
  static int64_t Numel(const Padded& p) { return 8 * p.numel() + 2 * kBackwardRows * p.length + kRows * p.size; }
};

// What the gradient of a row's scores needs of the row.
struct RowTerms {
  const float *lse, *products;  // products: rowsum(dO O)
};

// Probabilities of rows [first, first + kRows) and the gradients of their scaled scores, into the arrays of their
// block:
//   P = exp(S scale - lse), dS = P (dO V^T - rowsum(dO O)) scale.
__attribute__((always_inline)) inline void ScoreGradients(const Padded& p, const BackwardArrays& a,
                                                          const RowTerms& terms, int64_t block, int64_t first) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(p.real_size));
  const int64_t columns = p.Columns(first + kRows);
  float* const probabilities = a.probabilities + (first - block) * p.length;
  float* const d_scores = a.d_scores + (first - block) * p.length;
  Scores(p, a.q + first * p.size, a.keys_transposed, columns, probabilities);
  Scores(p, a.d_out + first * p.size, a.values_transposed, columns, d_scores);
  for (int64_t r = 0; r < kRows; ++r) {
    float *row = probabilities + r * p.length, *d_row = d_scores + r * p.length;
    const bool real = first + r < p.tokens;
    const int64_t visible = real ? p.Visible(first + r) : 0;
    const float shift = real ? terms.lse[first + r] : 0.0f, product = real ? terms.products[first + r] : 0.0f;
#pragma omp simd
    for (int64_t j = 0; j < visible; ++j) {
      row[j] = Exp(row[j] * scale - shift);
      d_row[j] = row[j] * (d_row[j] - product) * scale;
    }
    std::fill(row + visible, row + columns, 0.0f);
    std::fill(d_row + visible, d_row + columns, 0.0f);
  }
}

__attribute__((always_inline)) inline void BackwardHead(const Padded& p, const BackwardArrays& a, const RowTerms& terms,
                                                        const MutableRows& dq) {
  for (int64_t block = 0; block < p.tokens; block += kBackwardRows) {
    const int64_t last = std::min(block + kBackwardRows, RoundUp(p.tokens, kRows));
    const int64_t block_columns = p.Columns(last);
    for (int64_t first = block; first < last; first += kRows) {
      ScoreGradients(p, a, terms, block, first);
      const int64_t columns = p.Columns(first + kRows);
      for (int64_t row = first - block; row < first - block + kRows; ++row) {
        for (float* array : {a.probabilities, a.d_scores}) {
          std::fill(array + row * p.length + columns, array + row * p.length + block_columns, 0.0f);
        }
      }
      const Strided d_scores = {a.d_scores + (first - block) * p.length, p.length, 1};
      for (int64_t j = 0; j < p.size; j += kColumns) {
        Tile<false>(d_scores, {a.k + j, p.size}, columns, {a.rows + j, p.size});
      }
      WriteRows(p, a.rows, first, first + kRows, dq);
    }
    for (int64_t key = 0; key < block_columns; key += kRows) {
      for (int64_t j = 0; j < p.size; j += kColumns) {
        Tile<true>({a.probabilities + key, 1, p.length}, {a.d_out + block * p.size + j, p.size}, last - block,
                   {a.dv + key * p.size + j, p.size});
        Tile<true>({a.d_scores + key, 1, p.length}, {a.q + block * p.size + j, p.size}, last - block,
                   {a.dk + key * p.size + j, p.size});
      }
    }
  }
}

__attribute__((always_inline)) inline void Forward(const ShortAttention& in, const ShortAttentionOutput& output,
                                                   float* scratch) {
  const Padded p(in);
  const ForwardArrays a(p, scratch);
  CopyRows(p, in.k, a.v);
  Transpose(p, a.v, a.keys_transposed);
  CopyRows(p, in.v, a.v);
  for (int64_t h = 0; h < in.query_heads; ++h) {
    CopyRows(p, {in.q.data + h * in.q_head, in.q.row}, a.q);
    ForwardHead(p, a, {output.out.data + h * output.out_head, output.out.row}, output.lse + h * in.length);
  }
}

__attribute__((always_inline)) inline void Backward(const ShortAttention& in, const ShortAttentionGradient& g,
                                                    float* scratch) {
  const Padded p(in);
  const BackwardArrays a(p, scratch);
  float* products = scratch + BackwardArrays::Numel(p);
  CopyRows(p, in.k, a.k);
  Transpose(p, a.k, a.keys_transposed);
  CopyRows(p, in.v, a.v);
  Transpose(p, a.v, a.values_transposed);
  std::fill(a.dk, a.dk + p.numel(), 0.0f);
  std::fill(a.dv, a.dv + p.numel(), 0.0f);
  for (int64_t h = 0; h < in.query_heads; ++h) {
    CopyRows(p, {in.q.data + h * in.q_head, in.q.row}, a.q);
    CopyRows(p, {g.d_out.data + h * g.out_head, g.d_out.row}, a.d_out);
    for (int64_t t = 0; t < p.tokens; ++t) {
      const float *d_out = a.d_out + t * p.size, *out = g.out.data + h * g.out_head + t * g.out.row;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < p.real_size; ++j) sum += d_out[j] * out[j];
      products[t] = sum;
    }
    BackwardHead(p, a, {g.lse + h * in.length, products}, {g.dq.data + h * g.dq_head, g.dq.row});
  }
  WriteRows(p, a.dk, 0, p.tokens, g.dk);
  WriteRows(p, a.dv, 0, p.tokens, g.dv);
}

// Of the calling thread, kept between calls: at most the arrays of the longest document with the widest heads, 3 MiB.
float* Scratch(int64_t numel) {
  thread_local std::vector<float> scratch;
  if (static_cast<int64_t>(scratch.size()) < numel) scratch.resize(numel);
  return scratch.data();
}

}  // namespace

void ForwardShortAttention(const ShortAttention& attention, const ShortAttentionOutput& output) {
  const Padded p(attention);
  float* scratch = Scratch(ForwardArrays::Numel(p));
  const auto body = [&](int64_t, int64_t) __attribute__((always_inline)) { Forward(attention, output, scratch); };
  HasWideVectors() ? RunWide(body, 0, 1) : body(0, 1);
}

void BackwardShortAttention(const ShortAttention& attention, const ShortAttentionGradient& gradient) {
  const Padded p(attention);
  float* scratch = Scratch(BackwardArrays::Numel(p) + p.tokens);
  const auto body = [&](int64_t, int64_t) __attribute__((always_inline)) { Backward(attention, gradient, scratch); };
  HasWideVectors() ? RunWide(body, 0, 1) : body(0, 1);
}

}  // namespace vlm::model::ops
