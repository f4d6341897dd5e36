// Loops over the candidates of a region and over its observations; see simd/kernels.inl.

namespace zopo {
namespace {

typedef float Vecf __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
typedef float VecfLoad __attribute__((vector_size(ZOPO_VECTOR_BYTES), aligned(4), may_alias));
typedef float Half __attribute__((vector_size(ZOPO_VECTOR_BYTES / 2)));
typedef float HalfLoad __attribute__((vector_size(ZOPO_VECTOR_BYTES / 2), aligned(4), may_alias));
inline Vecf loadf(const float* p) { return *reinterpret_cast<const VecfLoad*>(p); }
inline void storef(float* p, Vecf v) { *reinterpret_cast<VecfLoad*>(p) = v; }
constexpr std::size_t kFloats = ZOPO_VECTOR_BYTES / sizeof(float);
constexpr std::size_t kPanelColumns = 64;

// Inner products of R rows with N vectors of columns, in registers. Each sum runs over d in order,
// so that neither R nor N changes its bits.
template <std::size_t R, std::size_t N>
inline void dots_tile(const float* X, std::size_t ldx, const std::size_t* index, std::size_t d,
                      const float* panel, float* out, std::size_t ldo) {
  const float* row[R];
  for (std::size_t r = 0; r < R; ++r) row[r] = X + index[r] * ldx;
  Vecf sum[R][N] = {};
  for (std::size_t k = 0; k < d; ++k) {
    Vecf x[N];
    for (std::size_t v = 0; v < N; ++v) x[v] = loadf(panel + k * kPanelColumns + v * kFloats);
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t v = 0; v < N; ++v) sum[r][v] += row[r][k] * x[v];
  }
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t v = 0; v < N; ++v) storef(out + r * ldo + v * kFloats, sum[r][v]);
}

void dots_f32(const float* X, std::size_t ldx, const std::size_t* index, std::size_t rows,
              std::size_t d, const float* panel, float* out, std::size_t ldo) {
  constexpr std::size_t kTileVectors = ZOPO_VECTOR_BYTES == 64 ? 4 : 2;
  for (std::size_t j = 0; j < kPanelColumns; j += kTileVectors * kFloats) {
    std::size_t r = 0;
    for (; r + 6 <= rows; r += 6)
      dots_tile<6, kTileVectors>(X, ldx, index + r, d, panel + j, out + r * ldo + j, ldo);
    for (; r + 4 <= rows; r += 4)
      dots_tile<4, kTileVectors>(X, ldx, index + r, d, panel + j, out + r * ldo + j, ldo);
    for (; r < rows; ++r)
      dots_tile<1, kTileVectors>(X, ldx, index + r, d, panel + j, out + r * ldo + j, ldo);
  }
}

// Rows of K that are added in registers before their sum is added to those of other rows, so that
// the rounding error hardly grows with the number of rows.
constexpr std::size_t kChunk = 64;

// Add the direction t_g = row + sum_i a_ig K_i of each of G levels, in a block of N vectors: a row
// of K is read once for all levels, and t never leaves the cache.
template <std::size_t N, std::size_t G>
inline void directions_block(const float* K, std::size_t ld, const std::size_t* index,
                             std::size_t rows, const float* a, const float* row, std::size_t j,
                             const DirectionOf* level) {
  alignas(64) float t[G][N * kFloats];
  for (std::size_t g = 0; g < G; ++g)
    for (std::size_t v = 0; v < N; ++v)
      storef(t[g] + v * kFloats, row ? loadf(row + j + v * kFloats) : Vecf{});
  for (std::size_t begin = 0; begin < rows; begin += kChunk) {
    const std::size_t end = rows - begin < kChunk ? rows : begin + kChunk;
    Vecf sum[G][N] = {};
    for (std::size_t i = begin; i < end; ++i) {
      Vecf k[N];
      const float* at = K + index[i] * ld + j;
      for (std::size_t v = 0; v < N; ++v) {
        k[v] = loadf(at + v * kFloats);
        // The next block of this row: the processor sees no stream in jumps from row to row.
        __builtin_prefetch(at + (N + v) * kFloats, 0, 2);
      }
      for (std::size_t g = 0; g < G; ++g)
        for (std::size_t v = 0; v < N; ++v) sum[g][v] += a[4 * i + g] * k[v];
    }
    for (std::size_t g = 0; g < G; ++g)
      for (std::size_t v = 0; v < N; ++v)
        storef(t[g] + v * kFloats, loadf(t[g] + v * kFloats) + sum[g][v]);
  }
  for (std::size_t g = 0; g < G; ++g) {
    float* variance = level[g].variance + j;
    const auto square = static_cast<float>(level[g].square);
    for (std::size_t c = 0; c < N * kFloats; c += kFloats) {
      const Vecf along = loadf(t[g] + c);
      storef(variance + c, loadf(variance + c) + (square * along) * along);
    }
    if (!level[g].mean_y) continue;
    double *mean_y = level[g].mean_y + j, *mean_1 = level[g].mean_1 + j;
    for (std::size_t c = 0; c < N * kFloats; c += kLanes) {
      const Vec along = __builtin_convertvector(*reinterpret_cast<const HalfLoad*>(t[g] + c), Vec);
      store(mean_y + c, load(mean_y + c) + level[g].y * along);
      store(mean_1 + c, load(mean_1 + c) + level[g].one * along);
    }
  }
}

template <std::size_t G>
inline void directions_pass(const float* K, std::size_t ld, const std::size_t* index,
                            std::size_t rows, const float* a, const float* row, std::size_t begin,
                            std::size_t end, const DirectionOf* level) {
  constexpr std::size_t kVectors = ZOPO_VECTOR_BYTES == 64 ? 4 : 2;
  for (std::size_t j = begin; j < end; j += kVectors * kFloats)
    directions_block<kVectors, G>(K, ld, index, rows, a, row, j, level);
}

void add_directions(const float* K, std::size_t ld, const std::size_t* index, std::size_t rows,
                    const float* a, const float* row, std::size_t begin, std::size_t end,
                    std::size_t levels, const DirectionOf* level) {
  if (levels == 1)
    directions_pass<1>(K, ld, index, rows, a, row, begin, end, level);
  else if (levels == 2)
    directions_pass<2>(K, ld, index, rows, a, row, begin, end, level);
  else if (levels == 3)
    directions_pass<3>(K, ld, index, rows, a, row, begin, end, level);
  else
    directions_pass<4>(K, ld, index, rows, a, row, begin, end, level);
}

// Add sum_i a_gi K_i to N vectors of columns in double precision, for G levels at once.
template <std::size_t N, std::size_t G>
inline void combine_doubles(const float* K, std::size_t ld, const std::size_t* index,
                            std::size_t rows, const double* const* a, std::size_t at,
                            double* const* out) {
  Vec sum[G][N];
  for (std::size_t g = 0; g < G; ++g)
    for (std::size_t v = 0; v < N; ++v) sum[g][v] = load(out[g] + at + v * kLanes);
  for (std::size_t i = 0; i < rows; ++i) {
    const float* row = K + index[i] * ld + at;
    Vec k[N];
    for (std::size_t v = 0; v < N; ++v)
      k[v] = __builtin_convertvector(*reinterpret_cast<const HalfLoad*>(row + v * kLanes), Vec);
    for (std::size_t g = 0; g < G; ++g)
      for (std::size_t v = 0; v < N; ++v) sum[g][v] += a[g][i] * k[v];
  }
  for (std::size_t g = 0; g < G; ++g)
    for (std::size_t v = 0; v < N; ++v) store(out[g] + at + v * kLanes, sum[g][v]);
}

void combine_f32_f64(const float* K, std::size_t ld, const std::size_t* index, std::size_t rows,
                     const double* const* a, std::size_t levels, std::size_t columns,
                     double* const* out) {
  constexpr std::size_t kVectors = ZOPO_VECTOR_BYTES == 64 ? 4 : 2;
  for (std::size_t at = 0; at < columns; at += kVectors * kLanes) {
    std::size_t g = 0;
    for (; g + 4 <= levels; g += 4)
      combine_doubles<kVectors, 4>(K, ld, index, rows, a + g, at, out + g);
    for (; g < levels; ++g) combine_doubles<kVectors, 1>(K, ld, index, rows, a + g, at, out + g);
  }
}

void update_row(std::size_t n, double a, double inverse, double beta, double* row, double* sum) {
  for (std::size_t j = 0; j < n; ++j) {
    row[j] = (row[j] - a * sum[j]) * inverse;
    sum[j] += beta * row[j];
  }
}

// Compute v = L x and y += L^T v for blocks of eight rows, which stay in registers and in L1.
template <std::size_t R>
inline void normal_block(const double* L, std::size_t width, const double* x, double* v,
                         double* y) {
  Vec sum[8] = {};
  for (std::size_t k = 0; k < width; k += kLanes) {
    const Vec at = load(x + k);
    for (std::size_t r = 0; r < R; ++r) sum[r] += load(L + r * width + k) * at;
  }
  double dots[8];
  sum4(sum[0], sum[1], sum[2], sum[3], dots);
  sum4(sum[4], sum[5], sum[6], sum[7], dots + 4);
  for (std::size_t r = 0; r < R; ++r) v[r] = dots[r];
  for (std::size_t k = 0; k < width; k += kLanes) {
    Vec even = load(y + k), odd = {};
    for (std::size_t r = 0; r < R; r += 2) even += load(L + r * width + k) * dots[r];
    for (std::size_t r = 1; r < R; r += 2) odd += load(L + r * width + k) * dots[r];
    store(y + k, even + odd);
  }
}

void triangle_normal(const double* L, std::size_t n, const double* x, double* v, double* y) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    normal_block<8>(L + triangle_offset(i), triangle_width(i), x, v + i, y);
  for (; i < n; ++i) normal_block<1>(L + triangle_offset(i), triangle_width(i), x, v + i, y);
}

double centered_square(const double* a, const double* b, double c, std::size_t n) {
  Vec even = {}, odd = {};
  std::size_t k = 0;
  for (; k + 2 * kLanes <= n; k += 2 * kLanes) {
    const Vec x = load(a + k) - load(b + k) * c;
    const Vec y = load(a + k + kLanes) - load(b + k + kLanes) * c;
    even += x * x;
    odd += y * y;
  }
  double tail = 0.0;
  for (; k < n; ++k) tail += (a[k] - c * b[k]) * (a[k] - c * b[k]);
  return sum(even + odd) + tail;
}

std::size_t count_at_most(const float* x, std::size_t n, float most) {
  typedef std::int32_t Vecs __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
  Vecs count[4] = {};  // a comparison that holds is -1
  for (std::size_t j = 0; j < n; j += 4 * kFloats)
    for (std::size_t v = 0; v < 4; ++v) count[v] -= loadf(x + j + v * kFloats) <= most;
  const Vecs all = (count[0] + count[1]) + (count[2] + count[3]);
  std::size_t sum = 0;
  for (std::size_t v = 0; v < kFloats; ++v) sum += static_cast<std::size_t>(all[v]);
  return sum;
}

float maximum(const float* x, std::size_t n) {
  Vecf top = loadf(x);
  for (std::size_t j = kFloats; j < n; j += kFloats) {
    const Vecf v = loadf(x + j);
    top = v > top ? v : top;
  }
  float most = top[0];
  for (std::size_t j = 1; j < kFloats; ++j) most = top[j] > most ? top[j] : most;
  return most;
}

void arc_cosine_first(std::size_t n, float factor, float bias, bool ntk, float* S, float* T) {
  const float kept = ntk ? 1.0f : 0.0f;
  for (std::size_t j = 0; j < n; ++j) {
    S[j] = factor * S[j] + bias;
    T[j] = kept * S[j];
  }
}

// Angle in [0, pi] of a cosine, to 3e-8: sqrt(1 - |c|) times a polynomial.
inline float angle_of(float c) {
  const float x = c < 0.0f ? -c : c;
  float p = -1.23700485e-03f;
  p = p * x + 6.58088524e-03f;
  p = p * x - 1.69654720e-02f;
  p = p * x + 3.08082534e-02f;
  p = p * x - 5.01450250e-02f;
  p = p * x + 8.89740993e-02f;
  p = p * x - 2.14598494e-01f;
  p = p * x + 1.57079630f;
  const float angle = __builtin_sqrtf(1.0f - x) * p;
  return c < 0.0f ? 3.14159265f - angle : angle;
}

void arc_cosine_layer(std::size_t n, float w, float bias, bool ntk, float at, const float* square,
                      float* S, float* T) {
  const float kept = ntk ? w : 1.0f, added = ntk ? bias : 0.0f;
  for (std::size_t j = 0; j < n; ++j) {
    float product = __builtin_sqrtf(at * square[j]);
    product = product > 1e-30f ? product : 1e-30f;
    float c = S[j] / product;
    c = c > 1.0f ? 1.0f : c;
    c = c < -1.0f ? -1.0f : c;
    const float angle = angle_of(c), sine = __builtin_sqrtf(1.0f - c * c);
    const float open = (3.14159265f - angle) * 0.159154943f;
    const float Q = product * (sine * 0.159154943f + open * c);
    S[j] = w * Q + bias;
    T[j] = kept * Q + added + w * open * T[j];
  }
}

// exp(x) for x <= 0, to 1e-13; 0 below -708. Adding 1.5 2^52 rounds to an integer and leaves it in
// the last bits, from where it moves into the exponent.
inline double exp_negative(double x) {
  const double y = x < -708.0 ? -708.0 : x;
  const double shifted = y * 1.4426950408889634 + 6755399441055744.0;
  const double k = shifted - 6755399441055744.0;
  const double r = (y - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10;
  double p = 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const std::uint64_t bits = (__builtin_bit_cast(std::uint64_t, shifted) + 1023) << 52;
  return x < -708.0 ? 0.0 : p * __builtin_bit_cast(double, bits);
}

// E max(0, u + N(0, 1))^p for p = 1 or 2, to 5e-8. With x = |u|, R Mills' ratio and phi the normal
// density:
//
//           u < 0                       u > 0
//   p = 1   phi(x) (1 - x R)            u + phi(x) (1 - x R)
//   p = 2   phi(x) ((x^2 + 1) R - x)    u^2 + 1 - phi(x) ((x^2 + 1) R - x)
//
// The factor beside phi(x) is a polynomial in 1 / (1 + 0.4 x), divided by (1 + 0.4 x)^(p + 1),
// which avoids the cancellation.
template <int P>
inline double expected(double u) {
  constexpr double kCoefficients[2][13] = {
      {0.4573488845952548, 0.45374333494578534, 0.14768847850220199, -0.041114493065355938,
       -0.029612148766457111, 0.010010937436428011, 0.0050190773030905789, -0.0034551534652774592,
       -0.00029946163535880062, 0.00095881377852393714, -0.00020672724156596092,
       -0.0001434673766538623, 6.192434611222502e-05},
      {0.54737644508092886, 0.66264276271751188, 0.18696388378112683, -0.12960791947313616,
       -0.051043381132051487, 0.040073241198199196, 0.006367729689048922, -0.013388843885227134,
       0.0022947229300913728, 0.0033831882698968948, -0.0016638537756418225, -0.0004453994633821777,
       0.00036157574178586471}};
  const double x = u < 0.0 ? -u : u;
  const double t = 1.0 / (1.0 + 0.4 * x), s = 2.0 * t - 1.0;
  double p = kCoefficients[P - 1][12];
  for (int k = 11; k >= 0; --k) p = p * s + kCoefficients[P - 1][k];
  const double tail =
      0.3989422804014327 * exp_negative(-0.5 * x * x) * p * t * t * (P == 2 ? t : 1.0);
  if constexpr (P == 1) return u > 0.0 ? u + tail : tail;
  return u > 0.0 ? u * u + 1.0 - tail : tail;
}

template <int P>
inline void improvement_of(std::size_t n, const double* mean_y, const double* mean_1,
                           const float* variance, double mean, double inverse, double incumbent,
                           double amplitude, double weight, double* out) {
  for (std::size_t j = 0; j < n; ++j) {
    double v = static_cast<double>(variance[j]);
    v = (v > 1e-12 ? v : 1e-12) * amplitude;
    const double s = __builtin_sqrt(v);
    const double u = ((mean_y[j] - mean * mean_1[j]) * inverse - incumbent) / s;
    if constexpr (P == 0)
      out[j] += weight * u;
    else
      out[j] += weight * (P == 1 ? s : v) * expected<P>(u);
  }
}

void improvement(std::size_t n, const double* mean_y, const double* mean_1, const float* variance,
                 double mean, double inverse, double incumbent, double amplitude, double weight,
                 int power, double* out) {
  if (power == 1)
    improvement_of<1>(n, mean_y, mean_1, variance, mean, inverse, incumbent, amplitude, weight,
                      out);
  else if (power == 2)
    improvement_of<2>(n, mean_y, mean_1, variance, mean, inverse, incumbent, amplitude, weight,
                      out);
  else
    improvement_of<0>(n, mean_y, mean_1, variance, mean, inverse, incumbent, amplitude, weight,
                      out);
}

// ---- the criterion in single precision -----------------------------------------------------------
//
// In explicit vectors: the compiler would take as many lanes as for the double precision of the
// means, half as many as fit.

typedef std::uint32_t Veci __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
typedef float F8 __attribute__((vector_size(8)));
typedef float F16 __attribute__((vector_size(16)));
typedef float F32 __attribute__((vector_size(32)));
inline auto join(F8 a, F8 b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3); }
inline auto join(F16 a, F16 b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7); }
inline auto join(F32 a, F32 b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// exp(-x^2 / 2) for 0 <= x <= kFar, to 1e-5. Polynomials are added in pairs, because the latency of
// a chain limits this loop. The constant rounds an exponent to an integer and biases it.
inline Vecf bell(Vecf x) {
  const Vecf y = (x * -0.721347520f) * x, shifted = y + 12583039.0f;
  const Vecf r = y - (shifted - 12583039.0f), square = r * r;
  const Vecf low = (0.999999191f + r * 0.693121968f) + (0.240249811f + r * 0.0559170392f) * square;
  const Vecf p = low + 0.00956051021f * (square * square);
  return p * __builtin_bit_cast(Vecf, __builtin_bit_cast(Veci, shifted) << 23);
}

// 1 / sqrt(x) of a positive number, to 5e-6, without the divider that the criterion needs too: a
// linear guess of the exponent, then two steps of Newton's method.
inline Vecf inverse_root(Vecf x) {
  const Veci guess = 0x5f375a86u - (__builtin_bit_cast(Veci, x) >> 1);
  const Vecf y = __builtin_bit_cast(Vecf, guess), half = 0.5f * x;
  const Vecf z = y * (1.5f - half * (y * y));
  return z * (1.5f - half * (z * z));
}

constexpr float kFar = 11.0f;  // standard deviations; the criterion is 1e-26 there

// `expected` to 4e-4 of its value for u above -8, to 1e-3 above -kFar, and at most 1e-27 below.
template <int P>
inline Vecf expected(Vecf u) {
  static constexpr float kCoefficients[2][8] = {
      {0.182456606f, 0.180995119f, 0.0588812978f, -0.0161712839f, -0.0115939246f, 0.00331497146f,
       0.00164518862f, -0.000581667994f},
      {0.218369593f, 0.264296339f, 0.0746246505f, -0.0510329913f, -0.0205390012f, 0.0138466826f,
       0.00308103494f, -0.00264086478f}};
  const float (&c)[8] = kCoefficients[P - 1];
  const Vecf size = __builtin_bit_cast(Vecf, __builtin_bit_cast(Veci, u) & 0x7fffffffu);
  const Vecf x = size < kFar ? size : Vecf{} + kFar;
  const Vecf t = 1.0f / (1.0f + 0.4f * x), s = 2.0f * t - 1.0f, square = s * s;
  const Vecf low = (c[0] + c[1] * s) + (c[2] + c[3] * s) * square;
  const Vecf high = (c[4] + c[5] * s) + (c[6] + c[7] * s) * square;
  const Vecf p = low + high * (square * square);
  const Vecf tail = bell(x) * (p * (P == 2 ? t * t * t : t * t));
  if constexpr (P == 1) return u > 0.0f ? u + tail : tail;
  return u > 0.0f ? u * u + 1.0f - tail : tail;
}

template <int P>
inline void criterion_of(std::size_t levels, const ImprovementOf* of, double mean, double inverse,
                         double incumbent, std::size_t begin, std::size_t end, const float* without,
                         float* out) {
  for (std::size_t j = begin; j < end; j += kFloats) {
    Vecf sum = {};
    for (std::size_t g = 0; g < levels; ++g) {
      Vec above[2];
      for (std::size_t h = 0; h < 2; ++h) {
        const std::size_t c = j + h * kLanes;
        above[h] = (load(of[g].mean_y + c) - mean * load(of[g].mean_1 + c)) * inverse - incumbent;
      }
      const Vecf x =
          join(__builtin_convertvector(above[0], Half), __builtin_convertvector(above[1], Half));
      const Vecf known = loadf(of[g].variance + j);
      const Vecf v =
          (known > 1e-12f ? known : Vecf{} + 1e-12f) * static_cast<float>(of[g].amplitude);
      const Vecf root = inverse_root(v);
      sum += static_cast<float>(of[g].weight) * (P == 1 ? v * root : v) * expected<P>(x * root);
    }
    const Vecf taken = loadf(without + j);
    storef(out + j, taken < 0.0f ? taken : sum);
  }
}

void criterion(std::size_t levels, const ImprovementOf* of, double mean, double inverse,
               double incumbent, int power, std::size_t begin, std::size_t end,
               const float* without, float* out) {
  if (power == 1)
    criterion_of<1>(levels, of, mean, inverse, incumbent, begin, end, without, out);
  else
    criterion_of<2>(levels, of, mean, inverse, incumbent, begin, end, without, out);
}

}  // namespace
}  // namespace zopo
