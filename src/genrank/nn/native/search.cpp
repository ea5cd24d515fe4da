// Flat search by inner product: every item's vector in 8 bits, its best places kept while they are scanned, those few
// scored again in float32.
//
// Vectors lie in blocks of 32 items, four channels at a time: one load brings four channels of 16 items, and one
// instruction multiplies them with four channels of a query and adds up. Scores of 32 items by 8 queries stay in
// registers for a whole pass over the channels. Codes are unsigned (a vector's value + 128), so that a dot product
// comes out 128 times the sum of the query too large.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#if defined(__AVX512VNNI__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 32, GROUP = 8;
constexpr int64_t TILE_BYTES = 1 << 16;  // of codes that every query passes while they are in the cache

// A score and its row as one number: the larger comes first, of equal scores the lower row.
inline uint64_t candidate(float score, int64_t row) {
    uint32_t bits;
    score += 0.f;  // no negative zero
    std::memcpy(&bits, &score, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(row));
}

inline int64_t row_of(uint64_t candidate) { return 0xffffffffu - static_cast<uint32_t>(candidate); }

inline float score_of(uint64_t candidate) {
    uint32_t bits = static_cast<uint32_t>(candidate >> 32);
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
}

// The best so far. Unordered; cut back to `most` whenever it is twice as long.
struct Best {
    std::vector<uint64_t> kept;
    size_t most = 0;
    float threshold = -std::numeric_limits<float>::infinity();

    void push(float score, int64_t row) {
        kept.push_back(candidate(score, row));
        if (kept.size() >= 2 * most + 64) cut();
    }

    void cut() {
        if (kept.size() <= most) return;
        std::nth_element(kept.begin(), kept.begin() + (most - 1), kept.end(), std::greater<uint64_t>());
        kept.resize(most);
        threshold = score_of(kept[most - 1]);
    }
};

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// Even and odd channels apart, in 16 bits: the instruction that multiplies bytes saturates.
template <int64_t N>
inline void few_products(const uint8_t* codes, const int8_t* const* queries, int64_t quads, int32_t (*out)[BLOCK]) {
    const __m256i low_byte = _mm256_set1_epi16(0xff);
    __m256i sum[N][4];
    for (int64_t n = 0; n < N; n++)
        for (__m256i& each : sum[n]) each = _mm256_setzero_si256();
    for (int64_t quad = 0; quad < quads; quad++) {
        __m256i even[N], odd[N];
        for (int64_t n = 0; n < N; n++) {
            int32_t four;
            std::memcpy(&four, queries[n] + 4 * quad, sizeof four);
            const __m256i q = _mm256_set1_epi32(four);
            even[n] = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8);
            odd[n] = _mm256_srai_epi16(q, 8);
        }
        for (int64_t part = 0; part < 4; part++) {
            const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + quad * 4 * BLOCK + part * 32));
            const __m256i a_even = _mm256_and_si256(a, low_byte), a_odd = _mm256_srli_epi16(a, 8);
            for (int64_t n = 0; n < N; n++) {
                const __m256i both = _mm256_add_epi32(_mm256_madd_epi16(a_even, even[n]), _mm256_madd_epi16(a_odd, odd[n]));
                sum[n][part] = _mm256_add_epi32(sum[n][part], both);
            }
        }
    }
    for (int64_t n = 0; n < N; n++)
        for (int64_t part = 0; part < 4; part++)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[n] + 8 * part), sum[n][part]);
}
#endif

// Integer products of 32 items with N queries. quads: groups of four channels.
template <int64_t N>
inline void products(const uint8_t* codes, const int8_t* const* queries, int64_t quads, int32_t (*out)[BLOCK]) {
#if defined(__AVX512VNNI__)
    __m512i low[N], high[N];
    for (int64_t n = 0; n < N; n++) low[n] = high[n] = _mm512_setzero_si512();
    for (int64_t quad = 0; quad < quads; quad++) {
        const __m512i a = _mm512_loadu_si512(codes + quad * 4 * BLOCK), b = _mm512_loadu_si512(codes + quad * 4 * BLOCK + 64);
        for (int64_t n = 0; n < N; n++) {
            int32_t four;
            std::memcpy(&four, queries[n] + 4 * quad, sizeof four);
            const __m512i q = _mm512_set1_epi32(four);
            low[n] = _mm512_dpbusd_epi32(low[n], a, q);
            high[n] = _mm512_dpbusd_epi32(high[n], b, q);
        }
    }
    for (int64_t n = 0; n < N; n++) {
        _mm512_storeu_si512(out[n], low[n]);
        _mm512_storeu_si512(out[n] + 16, high[n]);
    }
#elif defined(__AVX2__)
    for (int64_t n = 0; n + 2 <= N; n += 2) few_products<2>(codes, queries + n, quads, out + n);
    if (N % 2) few_products<1>(codes, queries + N - 1, quads, out + N - 1);
#else
    for (int64_t n = 0; n < N; n++) {
        std::memset(out[n], 0, sizeof out[n]);
        for (int64_t quad = 0; quad < quads; quad++) {
            const int8_t* q = queries[n] + 4 * quad;
            const uint8_t* code = codes + quad * 4 * BLOCK;
            for (int64_t i = 0; i < BLOCK; i++)
                out[n][i] += code[4 * i] * q[0] + code[4 * i + 1] * q[1] + code[4 * i + 2] * q[2] + code[4 * i + 3] * q[3];
        }
    }
#endif
}

}  // namespace

struct Search {
    int64_t items, dim, num_queries, most, k;  // most: kept by 8 bits, from which the best k are chosen
    const uint8_t* codes;
    const float* scales;       // of the items, up to a whole number of blocks
    const float* vectors;      // (items, dim)
    const float* queries;      // (num_queries, dim)
    const uint8_t* allowed;    // (items), or none
    const int64_t* excluded;   // rows per query, in order, or none
    const int64_t* excluded_offsets;
    int64_t* rows;             // (num_queries, k), filled with -1
    float* scores;
    int64_t num_threads;
};

namespace {

constexpr size_t AHEAD = 4;  // vectors that are on their way from memory while one is scored

inline void prefetch(const float* vector, int64_t dim) {
    for (int64_t c = 0; c < dim; c += 16) __builtin_prefetch(vector + c);
}

bool is_excluded(const Search& s, int64_t query, int64_t row) {
    if (s.excluded == nullptr) return false;
    return std::binary_search(s.excluded + s.excluded_offsets[query], s.excluded + s.excluded_offsets[query + 1], row);
}

struct Queries {
    std::vector<int8_t> codes;
    std::vector<int32_t> offset;  // what the products are too large by
    int64_t stride;

    explicit Queries(const Search& s) : offset(s.num_queries), stride((s.dim + 3) / 4 * 4) {
        codes.assign(s.num_queries * stride, 0);
        for (int64_t n = 0; n < s.num_queries; n++) {
            const float* query = s.queries + n * s.dim;
            float top = 0.f;
            for (int64_t c = 0; c < s.dim; c++) top = std::max(top, std::abs(query[c]));
            const float factor = top > 0.f ? 127.f / top : 0.f;
            int32_t sum = 0;
            for (int64_t c = 0; c < s.dim; c++) {
                codes[n * stride + c] = static_cast<int8_t>(std::lrintf(query[c] * factor));
                sum += codes[n * stride + c];
            }
            offset[n] = 128 * sum;
        }
    }
};

template <int64_t N>
void scan(const Search& s, const Queries& queries, int64_t first, int64_t begin, int64_t end, Best* best) {
    const int64_t quads = queries.stride / 4;
    const int8_t* code[N];
    for (int64_t n = 0; n < N; n++) code[n] = queries.codes.data() + (first + n) * queries.stride;
    alignas(64) int32_t product[N][BLOCK];
    alignas(64) float score[BLOCK];
    for (int64_t block = begin; block < end; block++) {
        products<N>(s.codes + block * BLOCK * 4 * quads, code, quads, product);
        const float* scale = s.scales + block * BLOCK;
        for (int64_t n = 0; n < N; n++) {
            const int32_t offset = queries.offset[first + n];
            const float threshold = best[first + n].threshold;
            uint32_t above = 0;  // a bit for each item
            for (int64_t i = 0; i < BLOCK; i++) {
                score[i] = static_cast<float>(product[n][i] - offset) * scale[i];
                above |= static_cast<uint32_t>(score[i] > threshold) << i;
            }
            for (; above; above &= above - 1) {
                const int64_t i = __builtin_ctz(above), row = block * BLOCK + i;
                if (row >= s.items || (s.allowed != nullptr && !s.allowed[row]) || is_excluded(s, first + n, row)) continue;
                best[first + n].push(score[i], row);
            }
        }
    }
}

void scan_all(const Search& s, const Queries& queries, int64_t begin, int64_t end, Best* best) {
    const int64_t tile = std::max<int64_t>(TILE_BYTES / (BLOCK * queries.stride), 1);
    for (int64_t from = begin; from < end; from += tile) {
        const int64_t to = std::min(from + tile, end);
        int64_t n = 0;
        for (; n + GROUP <= s.num_queries; n += GROUP) scan<GROUP>(s, queries, n, from, to, best);
        for (; n + 4 <= s.num_queries; n += 4) scan<4>(s, queries, n, from, to, best);
        for (; n + 2 <= s.num_queries; n += 2) scan<2>(s, queries, n, from, to, best);
        if (n < s.num_queries) scan<1>(s, queries, n, from, to, best);
    }
}

}  // namespace

// Codes in blocks and scales of float vectors; `codes` holds a whole number of blocks, zeroed.
extern "C" void search_encode(const float* vectors, int64_t items, int64_t dim, uint8_t* codes, float* scales, int64_t num_threads) {
    const int64_t stride = (dim + 3) / 4 * 4;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(num_threads))
    for (int64_t row = 0; row < items; row++) {
        const float* vector = vectors + row * dim;
        float top = 0.f;
        for (int64_t c = 0; c < dim; c++) top = std::max(top, std::abs(vector[c]));
        scales[row] = top / 127.f;
        const float factor = top > 0.f ? 127.f / top : 0.f;
        uint8_t* block = codes + row / BLOCK * BLOCK * stride;
        for (int64_t c = 0; c < stride; c++) {
            const long code = c < dim ? std::lrintf(vector[c] * factor) : 0;
            block[c / 4 * 4 * BLOCK + row % BLOCK * 4 + c % 4] = static_cast<uint8_t>(code + 128);
        }
    }
}

extern "C" void search_int8(const Search* call) {
    const Search& s = *call;
    const Queries queries(s);
    const int64_t blocks = (s.items + BLOCK - 1) / BLOCK;
    const int64_t threads = std::clamp<int64_t>(s.num_threads, 1, std::max<int64_t>(blocks, 1));
    std::vector<std::vector<Best>> best(threads, std::vector<Best>(s.num_queries));
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < threads; t++) {
            for (Best& each : best[t]) {
                each.most = s.most;
                each.kept.reserve(2 * s.most + 64);
            }
            scan_all(s, queries, blocks * t / threads, blocks * (t + 1) / threads, best[t].data());
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < s.num_queries; n++) {
            Best all;
            all.most = s.most;
            for (const std::vector<Best>& part : best)
                all.kept.insert(all.kept.end(), part[n].kept.begin(), part[n].kept.end());
            all.cut();
            const size_t count = all.kept.size(), k = std::min<size_t>(s.k, count);
            for (size_t i = 0; i < count; i++) {
                if (i + AHEAD < count) prefetch(s.vectors + row_of(all.kept[i + AHEAD]) * s.dim, s.dim);
                const int64_t row = row_of(all.kept[i]);
                all.kept[i] = candidate(dot(s.vectors + row * s.dim, s.queries + n * s.dim, s.dim), row);
            }
            std::partial_sort(all.kept.begin(), all.kept.begin() + k, all.kept.end(), std::greater<uint64_t>());
            for (size_t i = 0; i < k; i++) {
                s.rows[n * s.k + i] = row_of(all.kept[i]);
                s.scores[n * s.k + i] = score_of(all.kept[i]);
            }
        }
    }
}
