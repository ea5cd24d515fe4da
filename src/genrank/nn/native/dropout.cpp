// Dropout without a stored mask: whether an element falls is a hash of the seed and its index, so that the backward
// pass finds the same ones again. out[i] = x[i] / (1 - p), or 0 with probability p.

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace {

// Two rounds of multiply and shift: every input bit reaches every output bit.
inline uint32_t mixed(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

}  // namespace

extern "C" void dropout(const float* x, float* out, int64_t n, uint64_t seed, float p, int64_t num_threads) {
    constexpr int64_t CHUNK = 16384;
    const uint32_t falls_below = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
    const float factor = 1.f / (1.f - p);
    const int64_t chunks = (n + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(std::clamp<int64_t>(num_threads, 1, std::max<int64_t>(chunks, 1))))
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const uint32_t key = mixed(static_cast<uint32_t>(seed) ^ mixed(static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(chunk)));
        const int64_t begin = chunk * CHUNK, length = std::min(CHUNK, n - begin);
        for (int64_t i = 0; i < length; i++) {
            const uint32_t bits = mixed(key + static_cast<uint32_t>(i) * 0x9e3779b9u);
            out[begin + i] = bits < falls_below ? 0.f : x[begin + i] * factor;
        }
    }
}
