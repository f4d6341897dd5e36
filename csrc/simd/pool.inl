// Scans of a pool and its rows in float64; see simd/kernels.inl.

namespace zopo {
namespace {

// ---- pool scan -----------------------------------------------------------------------------
//
// Vectors have at most 32 bytes. Converting half precision into a full AVX-512 register is no
// faster (two halves and a merge), and beyond the L2 cache memory bounds the loop.

constexpr std::size_t kScanBytes = ZOPO_VECTOR_BYTES < 32 ? ZOPO_VECTOR_BYTES : 32;
constexpr std::size_t kScanLanes = kScanBytes / sizeof(float);
typedef float ScanVec __attribute__((vector_size(kScanBytes)));
typedef float ScanLoad __attribute__((vector_size(kScanBytes), aligned(4), may_alias));

inline float half_to_float(std::uint16_t h) {
  // Rebase the exponent by a multiplication, which also normalises subnormals; no infinities here.
  union {
    std::uint32_t u;
    float f;
  } v;
  v.u = static_cast<std::uint32_t>(h & 0x7fffu) << 13;
  v.f *= 0x1p112f;
  v.u |= static_cast<std::uint32_t>(h & 0x8000u) << 16;
  return v.f;
}
inline ScanVec floats(const std::uint16_t* p) {
#if defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  ScanVec v;
  for (std::size_t i = 0; i < kScanLanes; ++i) v[i] = half_to_float(p[i]);
  return v;
#endif
}
inline float scalar(std::uint16_t h) { return half_to_float(h); }
inline float scalar(float f) { return f; }
inline double scalar(double f) { return f; }

// With `Ahead`, prefetch the rows that many rows further on while summing these: R streams are more
// than the hardware prefetcher follows.
template <std::size_t R, std::size_t Ahead>
inline void scan_rows(const std::uint16_t* Z, std::size_t d, const float* w, const float* norm,
                      float* out) {
  ScanVec acc[R] = {};
  std::size_t k = 0;
  for (; k + kScanLanes <= d; k += kScanLanes) {
    const ScanVec wk = *reinterpret_cast<const ScanLoad*>(w + k);
    for (std::size_t r = 0; r < R; ++r) acc[r] += floats(Z + r * d + k) * wk;
    if constexpr (Ahead > 0) {
      const char* ahead = reinterpret_cast<const char*>(Z + Ahead * d + R * k);
      for (std::size_t b = 0; b < R * kScanLanes * sizeof(*Z); b += 64)
        __builtin_prefetch(ahead + b);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    float tail = 0.0f;
    for (std::size_t j = k; j < d; ++j) tail += half_to_float(Z[r * d + j]) * w[j];
    out[r] = norm[r] - 2.0f * (sum_lanes(acc[r]) + tail);
  }
}

void scan(const std::uint16_t* Z, std::size_t rows, std::size_t d, Reach reach, const float* w,
          const float* norm, float* out) {
  std::size_t i = 0;
  if (reach == Reach::Cached)  // eight rows at a time hide the latency of the additions
    for (; i + 8 <= rows; i += 8) scan_rows<8, 8>(Z + i * d, d, w, norm + i, out + i);
  if (reach == Reach::Memory)  // four at a time keep the order of reads that memory serves fastest
    for (; i + 4 <= rows; i += 4) scan_rows<4, 8>(Z + i * d, d, w, norm + i, out + i);
  for (; i + 8 <= rows; i += 8) scan_rows<8, 0>(Z + i * d, d, w, norm + i, out + i);
  for (; i < rows; ++i) scan_rows<1, 0>(Z + i * d, d, w, norm + i, out + i);
}

// ---- pool rows in float64 --------------------------------------------------------------------

inline Vec widened(const double* p) { return load(p); }
#if defined(__AVX512F__)
// Masked forms, because GCC 12's own headers trip -Wmaybe-uninitialized in the plain ones.
inline Vec widened(const float* p) { return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p)); }
inline Vec widened(const std::uint16_t* p) {
  return _mm512_maskz_cvtps_pd(
      0xff, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#elif defined(__F16C__)
inline Vec widened(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
inline Vec widened(const std::uint16_t* p) {
  return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
inline Vec widened(const float* p) { return Vec{p[0], p[1]}; }
inline Vec widened(const std::uint16_t* p) { return Vec{half_to_float(p[0]), half_to_float(p[1])}; }
#endif

template <std::size_t R, bool Centered, class T>
inline void rows_dots(const T* const* z, std::size_t d, const double* mean, const double* w,
                      double* y) {
  Vec acc[R] = {};
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    const Vec wk = load(w + k);
    for (std::size_t r = 0; r < R; ++r) {
      Vec e = widened(z[r] + k);
      if constexpr (Centered) e -= load(mean + k);
      acc[r] += e * wk;
    }
  }
  if constexpr (R == 4)
    sum4(acc[0], acc[1], acc[2], acc[3], y);
  else
    for (std::size_t r = 0; r < R; ++r) y[r] = sum(acc[r]);
  for (; k < d; ++k)
    for (std::size_t r = 0; r < R; ++r)
      y[r] += (scalar(z[r][k]) - (Centered ? mean[k] : 0.0)) * w[k];
}

template <bool Centered, class T>
inline void rows_matvec_of(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                           const double* mean, const double* w, double* y) {
  const T* z[4];
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (std::size_t r = 0; r < 4; ++r) z[r] = Z + static_cast<std::size_t>(index[i + r]) * d;
    rows_dots<4, Centered>(z, d, mean, w, y + i);
  }
  for (; i < n; ++i) {
    z[0] = Z + static_cast<std::size_t>(index[i]) * d;
    rows_dots<1, Centered>(z, d, mean, w, y + i);
  }
}

template <class T>
void rows_matvec(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                 const double* mean, const double* w, double* y) {
  if (mean)
    rows_matvec_of<true>(Z, d, index, n, mean, w, y);
  else
    rows_matvec_of<false>(Z, d, index, n, mean, w, y);
}

template <std::size_t R, bool Centered, class T>
inline void rows_add(const T* const* z, std::size_t d, const double* mean, const double* a,
                     double* y) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    Vec v = load(y + k);
    for (std::size_t r = 0; r < R; ++r) {
      Vec e = widened(z[r] + k);
      if constexpr (Centered) e -= load(mean + k);
      v += e * a[r];
    }
    store(y + k, v);
  }
  for (; k < d; ++k)
    for (std::size_t r = 0; r < R; ++r)
      y[k] += a[r] * (scalar(z[r][k]) - (Centered ? mean[k] : 0.0));
}

template <bool Centered, class T>
inline void rows_combine_of(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                            const double* mean, const double* a, double* y) {
  const T* z[8];
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (std::size_t r = 0; r < 8; ++r) z[r] = Z + static_cast<std::size_t>(index[i + r]) * d;
    rows_add<8, Centered>(z, d, mean, a + i, y);
  }
  for (; i < n; ++i) {
    z[0] = Z + static_cast<std::size_t>(index[i]) * d;
    rows_add<1, Centered>(z, d, mean, a + i, y);
  }
}

template <class T>
void rows_combine(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                  const double* mean, const double* a, double* y) {
  if (mean)
    rows_combine_of<true>(Z, d, index, n, mean, a, y);
  else
    rows_combine_of<false>(Z, d, index, n, mean, a, y);
}

void standardise_f16(const std::uint16_t* z, std::size_t d, const double* mean,
                     const double* inverse_scale, double* e) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes)
    store(e + k, (widened(z + k) - load(mean + k)) * load(inverse_scale + k));
  for (; k < d; ++k) e[k] = (half_to_float(z[k]) - mean[k]) * inverse_scale[k];
}

void moments_pass(const double* row, std::size_t d, double* sum, double* low, double* high) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    const Vec v = load(row + k), l = load(low + k), h = load(high + k);
    store(sum + k, load(sum + k) + v);
    store(low + k, v < l ? v : l);
    store(high + k, v > h ? v : h);
  }
  for (; k < d; ++k) {
    sum[k] += row[k];
    low[k] = row[k] < low[k] ? row[k] : low[k];
    high[k] = row[k] > high[k] ? row[k] : high[k];
  }
}

void squares_pass(const double* row, std::size_t d, const double* mean, double* sum) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    const Vec v = load(row + k) - load(mean + k);
    store(sum + k, load(sum + k) + v * v);
  }
  for (; k < d; ++k) sum[k] += (row[k] - mean[k]) * (row[k] - mean[k]);
}

void widen_f16(const std::uint16_t* from, std::size_t n, double* to) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, widened(from + i));
  for (; i < n; ++i) to[i] = half_to_float(from[i]);
}

// Round to nearest, ties to even, by way of float32; numbers beyond the range become infinite.
inline std::uint16_t to_half(double v) {
  union {
    float f;
    std::uint32_t u;
  } x;
  x.f = static_cast<float>(v);
  const std::uint32_t sign = x.u >> 16 & 0x8000u;
  x.u &= 0x7fffffffu;
  if (x.u >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (x.u < 0x38800000u) {  // subnormal: the sum's last bit is 2^-24
    x.f += 0.5f;
    return static_cast<std::uint16_t>(sign | (x.u - 0x3f000000u));
  }
  const std::uint32_t odd = x.u >> 13 & 1u;
  x.u += 0xc8000fffu + odd;  // rebase the exponent and add half of the last bit that is kept
  return static_cast<std::uint16_t>(sign | x.u >> 13);
}

void narrow_f16(const double* from, std::size_t n, std::uint16_t* to) {
  std::size_t i = 0;
#if defined(__F16C__)
  for (; i + 4 <= n; i += 4)
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i),
                     _mm_cvtps_ph(_mm256_cvtpd_ps(_mm256_loadu_pd(from + i)), 0));
#endif
  for (; i < n; ++i) to[i] = to_half(from[i]);
}

std::uint64_t read_all(const void* from, std::size_t n) {
  typedef std::uint64_t Words __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
  typedef std::uint64_t Load __attribute__((vector_size(ZOPO_VECTOR_BYTES), aligned(1), may_alias));
  const char* p = static_cast<const char*>(from);
  Words acc[4] = {};
  std::size_t i = 0;
  for (; i + sizeof(acc) <= n; i += sizeof(acc))
    for (std::size_t u = 0; u < 4; ++u)
      acc[u] ^= *reinterpret_cast<const Load*>(p + i + u * sizeof(Words));
  const Words all = (acc[0] ^ acc[1]) ^ (acc[2] ^ acc[3]);
  std::uint64_t word = 0;
  for (std::size_t j = 0; j < sizeof(Words) / 8; ++j) word ^= all[j];
  for (; i < n; ++i)
    word ^= static_cast<std::uint64_t>(static_cast<unsigned char>(p[i])) << 8 * (i % 8);
  return word;
}

}  // namespace
}  // namespace zopo
