// Vectors of the machine's width by the compiler's vector types, and a small matrix product on them.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int64_t V = 16, ROWS = 6, PANEL_VECTORS = 4;  // 24 of 32 registers hold the product's tile
#elif defined(__AVX__)
constexpr int64_t V = 8, ROWS = 6, PANEL_VECTORS = 2;  // 12 of 16
#else
constexpr int64_t V = 4, ROWS = 6, PANEL_VECTORS = 2;
#endif
constexpr int64_t PANEL = PANEL_VECTORS * V;

typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));

inline vec load(const float* from) {
    vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline ivec load(const int32_t* from) {
    ivec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float* to, vec x) { std::memcpy(to, &x, sizeof x); }

inline vec to_float(ivec x) { return __builtin_convertvector(x, vec); }

inline vec as_float(ivec x) {
    vec y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

inline ivec as_int(vec x) {
    ivec y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

inline ivec lanes() {
    ivec x;
    for (int l = 0; l < V; l++) x[l] = l;
    return x;
}

inline float total_of(vec x) {
    float sum = 0.f;
    for (int l = 0; l < V; l++) sum += x[l];
    return sum;
}

inline float maximum(vec x) {
    float top = x[0];
    for (int l = 1; l < V; l++) top = x[l] > top ? x[l] : top;
    return top;
}

inline float dot(const float* a, const float* b, int64_t n) {
    vec sum = {};
    int64_t i = 0;
    for (; i + V <= n; i += V) sum += load(a + i) * load(b + i);
    float rest = 0.f;
    for (; i < n; i++) rest += a[i] * b[i];
    return total_of(sum) + rest;
}

// e^x to about 1e-7: 2^n by the exponent's bits, the rest by the series of e^r, |r| <= ln(2)/2. 0 below -87.
inline vec exp_of(vec x) {
    const vec low = -87.f + vec{}, high = 88.f + vec{};
    const ivec tiny = x < low;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const vec scaled = x * 1.44269504f;
    const ivec n = __builtin_convertvector(scaled + (scaled < 0.f ? -0.5f + vec{} : 0.5f + vec{}), ivec);
    const vec whole = to_float(n);
    const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec p = r * (1.f / 5040.f) + 1.f / 720.f;
    p = p * r + 1.f / 120.f;
    p = p * r + 1.f / 24.f;
    p = p * r + 1.f / 6.f;
    p = p * r + 0.5f;
    p = p * r + 1.f;
    p = p * r + 1.f;
    return tiny ? vec{} : p * as_float((n + 127) << 23);
}

inline vec sigmoid(vec x) { return 1.f / (1.f + exp_of(-x)); }

// log2 of x >= 1 to about 1e-7: the exponent, and the series of artanh for the mantissa brought to [sqrt(1/2), sqrt(2)].
inline vec log2_of(vec x) {
    ivec exponent = (as_int(x) >> 23) - 127;
    vec m = as_float((as_int(x) & 0x7fffff) | 0x3f800000);
    const ivec large = m > 1.41421356f;
    m = large ? m * 0.5f : m;
    exponent = large ? exponent + 1 : exponent;
    const vec s = (m - 1.f) / (m + 1.f), s2 = s * s;
    vec p = s2 * (1.f / 9.f) + 1.f / 7.f;
    p = p * s2 + 1.f / 5.f;
    p = p * s2 + 1.f / 3.f;
    p = p * s2 + 1.f;
    return to_float(exponent) + s * p * 2.88539008f;
}

// c (M, N vectors) = or += a (M, k) b (k, N vectors), held in registers. a[i][p] is a[i * a_row + p * a_step].
template <bool ADD, int M, int N>
inline void multiply_tile(
    int64_t k, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, float* c, int64_t c_row
) {
    vec sum[M][N];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) sum[i][j] = ADD ? load(c + i * c_row + j * V) : vec{};
    for (int64_t p = 0; p < k; p++) {
        vec row[N];
        for (int j = 0; j < N; j++) row[j] = load(b + p * b_row + j * V);
        for (int i = 0; i < M; i++) {
            const vec factor = a[i * a_row + p * a_step] + vec{};
            for (int j = 0; j < N; j++) sum[i][j] += factor * row[j];
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) store(c + i * c_row + j * V, sum[i][j]);
}

template <bool ADD, int N>
inline void multiply_columns(
    int64_t m, int64_t k, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, float* c, int64_t c_row
) {
    int64_t i = 0;
    for (; i + ROWS <= m; i += ROWS)
        multiply_tile<ADD, ROWS, N>(k, a + i * a_row, a_row, a_step, b, b_row, c + i * c_row, c_row);
    for (; i < m; i++) multiply_tile<ADD, 1, N>(k, a + i * a_row, a_row, a_step, b, b_row, c + i * c_row, c_row);
}

// c (m, n) = or += a (m, k) b (k, n); n is a multiple of V.
template <bool ADD>
inline void multiply(
    int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, float* c,
    int64_t c_row
) {
    int64_t j = 0;
    for (; j + PANEL <= n; j += PANEL)
        multiply_columns<ADD, PANEL_VECTORS>(m, k, a, a_row, a_step, b + j, b_row, c + j, c_row);
    for (; j + 2 * V <= n; j += 2 * V) multiply_columns<ADD, 2>(m, k, a, a_row, a_step, b + j, b_row, c + j, c_row);
    for (; j < n; j += V) multiply_columns<ADD, 1>(m, k, a, a_row, a_step, b + j, b_row, c + j, c_row);
}
