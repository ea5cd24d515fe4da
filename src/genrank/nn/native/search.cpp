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
#include <limits>
#include <vector>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 32, GROUP = 8;
constexpr int64_t TILE_BYTES = 1 << 16;  // of codes that every query passes while they are in the cache

struct Candidate {
    float score;
    int32_t row;
};

inline bool before(const Candidate& a, const Candidate& b) { return a.score > b.score || (a.score == b.score && a.row < b.row); }

// The best so far. Unordered; cut back to `most` whenever it is twice as long.
struct Best {
    std::vector<Candidate> kept;
    size_t most = 0;
    float threshold = -std::numeric_limits<float>::infinity();

    void push(float score, int32_t row) {
        kept.push_back({score, row});
        if (kept.size() >= 2 * most + 64) cut();
    }

    void cut() {
        if (kept.size() <= most) return;
        std::nth_element(kept.begin(), kept.begin() + (most - 1), kept.end(), before);
        kept.resize(most);
        threshold = kept[most - 1].score;
    }
};

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
            int32_t above = 0;
            for (int64_t i = 0; i < BLOCK; i++) {
                score[i] = static_cast<float>(product[n][i] - offset) * scale[i];
                above |= score[i] > threshold;
            }
            if (!above) continue;
            for (int64_t i = 0; i < BLOCK; i++) {
                const int64_t row = block * BLOCK + i;
                if (!(score[i] > best[first + n].threshold) || row >= s.items) continue;
                if ((s.allowed != nullptr && !s.allowed[row]) || is_excluded(s, first + n, row)) continue;
                best[first + n].push(score[i], static_cast<int32_t>(row));
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
            for (const std::vector<Best>& part : best) all.kept.insert(all.kept.end(), part[n].kept.begin(), part[n].kept.end());
            all.cut();
            for (Candidate& each : all.kept) each.score = dot(s.vectors + each.row * s.dim, s.queries + n * s.dim, s.dim);
            const int64_t count = std::min<int64_t>(s.k, static_cast<int64_t>(all.kept.size()));
            std::partial_sort(all.kept.begin(), all.kept.begin() + count, all.kept.end(), before);
            for (int64_t i = 0; i < count; i++) {
                s.rows[n * s.k + i] = all.kept[i].row;
                s.scores[n * s.k + i] = all.kept[i].score;
            }
        }
    }
}
