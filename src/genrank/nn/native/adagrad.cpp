// One row-wise Adagrad step on the rows of a table that were looked up, straight from the lookups' gradients:
//
//     g_r = sum of the gradients of row r's lookups,  s_r += mean(g_r^2),  w_r = w_r (1 - lr decay) - lr g_r / (sqrt(s_r) + eps)
//
// Lookups are brought together by a hash table of chains, each thread taking the rows that hash to it, in order of
// their lookups: the same sums whatever the number of threads.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace {

struct Chain {
    int64_t row;
    int32_t first, last;
};

uint64_t hash(int64_t row) { return static_cast<uint64_t>(row) * 0x9E3779B97F4A7C15ull; }

// The distinct rows of one share, each with the chain of its lookups in `next`.
std::vector<Chain> chains_of(const int64_t* rows, int64_t n, int share, int num_shares, int32_t* next) {
    int bits = 4;
    while ((int64_t{1} << bits) < 2 * n / num_shares + 64) bits++;
    std::vector<int32_t> slots(int64_t{1} << bits, -1);
    std::vector<Chain> chains;
    chains.reserve(n / num_shares + 64);
    const uint64_t mask = slots.size() - 1;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t h = hash(rows[i]);
        if (static_cast<int>((h >> 32) % num_shares) != share) continue;
        next[i] = -1;
        uint64_t slot = (h >> 20) & mask;
        while (slots[slot] >= 0 && chains[slots[slot]].row != rows[i]) slot = (slot + 1) & mask;
        if (slots[slot] < 0) {
            slots[slot] = static_cast<int32_t>(chains.size());
            chains.push_back({rows[i], static_cast<int32_t>(i), static_cast<int32_t>(i)});
        } else {
            Chain& chain = chains[slots[slot]];
            next[chain.last] = static_cast<int32_t>(i);
            chain.last = static_cast<int32_t>(i);
        }
    }
    return chains;
}

void update(
    float* weight, float* total, const float* gradients, const Chain& chain, const int32_t* next, int64_t dim, float rate,
    float decay, float eps, float* sum
) {
    const float* gradient = gradients + chain.first * dim;
    if (next[chain.first] >= 0) {
        std::copy_n(gradient, dim, sum);
        for (int32_t i = next[chain.first]; i >= 0; i = next[i])
            for (int64_t d = 0; d < dim; d++) sum[d] += gradients[i * dim + d];
        gradient = sum;
    }
    total[chain.row] += dot(gradient, gradient, dim) / static_cast<float>(dim);
    const float factor = rate / (std::sqrt(total[chain.row]) + eps), kept = 1.f - rate * decay;
    float* row = weight + chain.row * dim;
    for (int64_t d = 0; d < dim; d++) row[d] = row[d] * kept - factor * gradient[d];
}

}  // namespace

extern "C" void adagrad_step(
    float* weight, float* total, const int64_t* rows, const float* gradients, int64_t n, int64_t dim, float rate,
    float decay, float eps, int64_t num_threads
) {
    std::vector<int32_t> next(n);
    const int shares = static_cast<int>(std::max<int64_t>(std::min<int64_t>(num_threads, n / 1024), 1));
#pragma omp parallel for schedule(static, 1) num_threads(shares)
    for (int share = 0; share < shares; share++) {
        const std::vector<Chain> chains = chains_of(rows, n, share, shares, next.data());
        std::vector<float> sum(dim);
        constexpr size_t AHEAD = 12;  // rows are far apart in memory: ask for them early
        for (size_t i = 0; i < chains.size(); i++) {
            if (i + AHEAD < chains.size()) {
                const Chain& later = chains[i + AHEAD];
                for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(weight + later.row * dim + d, 1);
                __builtin_prefetch(total + later.row, 1);
                for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(gradients + later.first * dim + d);
            }
            update(weight, total, gradients, chains[i], next.data(), dim, rate, decay, eps, sum.data());
        }
    }
}
