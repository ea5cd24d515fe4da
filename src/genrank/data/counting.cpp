// Counting events by key and time: sorting them, and sums over windows of those that are in order. See counting.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

namespace {

struct Entry {
    uint64_t value;
    int64_t row;
};

constexpr int BITS = 11, BINS = 1 << BITS;  // of a digit

inline uint64_t ordered(int64_t value) { return static_cast<uint64_t>(value) ^ uint64_t{1} << 63; }  // negative first

// Stable; digits that all values share cost nothing.
void sort_by_value(Entry*& entries, Entry*& spare, int64_t n) {
    uint64_t varying = 0;
    for (int64_t i = 0; i < n; i++) varying |= entries[i].value ^ entries[0].value;
    for (int shift = 0; shift < 64; shift += BITS) {
        if (!(varying >> shift & (BINS - 1))) continue;
        std::vector<int64_t> next(BINS);
        for (int64_t i = 0; i < n; i++) next[entries[i].value >> shift & (BINS - 1)]++;
        std::exclusive_scan(next.begin(), next.end(), next.begin(), int64_t{0});
        for (int64_t i = 0; i < n; i++) spare[next[entries[i].value >> shift & (BINS - 1)]++] = entries[i];
        std::swap(entries, spare);
    }
}

// The first of values[from .. end), which ascend, that is not below `bound`: doubling steps, then halves.
inline int64_t gallop(const int64_t* values, int64_t from, int64_t end, int64_t bound) {
    int64_t step = 1;
    while (from + step <= end && values[from + step - 1] < bound) {
        from += step;
        step *= 2;
    }
    return std::lower_bound(values + from, values + std::min(from + step - 1, end), bound) - values;
}

// sums[p + 1][v]: value v summed over the events order[0 .. ends[p]); sums[0] is 0. values[event][v].
template <typename Value>
void sum_places(
    const Value* values, int64_t num_values, const int64_t* order, const int64_t* ends, int64_t num_places,
    int64_t* sums
) {
    std::fill(sums, sums + num_values, 0);
    for (int64_t p = 0, i = 0; p < num_places; p++) {
        int64_t* sum = sums + (p + 1) * num_values;
        std::copy(sum - num_values, sum, sum);
        for (; i < ends[p]; i++)
            for (int64_t v = 0; v < num_values; v++) sum[v] += values[order[i] * num_values + v];
    }
}

// The nearest float16, of two the even one: what NumPy rounds to, without its branches.
inline uint16_t half_of(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint64_t sign = bits >> 48 & 0x8000, size = bits & ~(uint64_t{1} << 63);
    const uint64_t normal = ((size + (uint64_t{1} << 41) - 1 + (size >> 42 & 1)) >> 42) - (uint64_t{1023 - 15} << 10);
    const double shifted = std::fabs(value) + 0x1p28;  // whose last bit is worth 2^-24, as that of a subnormal half
    uint64_t subnormal;
    std::memcpy(&subnormal, &shifted, sizeof subnormal);
    const uint64_t half = std::fabs(value) < 0x1p-14 ? subnormal & 0x7ff : std::fabs(value) < 65520 ? normal : 0x7c00;
    return static_cast<uint16_t>(sign | (value == value ? half : 0x7e00));
}

}  // namespace

// order[n]: the rows in order of (key, time), of equal ones the first row first. scratch[4 * n].
extern "C" void sort_rows(const int64_t* keys, const int64_t* times, int64_t n, int64_t* order, Entry* scratch) {
    bool done = true;
    for (int64_t i = 1; i < n && done; i++)
        done = keys[i - 1] < keys[i] || (keys[i - 1] == keys[i] && times[i - 1] <= times[i]);
    if (done) return std::iota(order, order + n, int64_t{0});
    Entry *entries = scratch, *spare = scratch + n;
    for (int64_t i = 0; i < n; i++) entries[i] = {ordered(times[i]), i};
    sort_by_value(entries, spare, n);
    for (int64_t i = 0; i < n; i++) entries[i].value = ordered(keys[entries[i].row]);
    sort_by_value(entries, spare, n);
    for (int64_t i = 0; i < n; i++) order[i] = entries[i].row;
}

extern "C" void sum_places_32(
    const int32_t* values, int64_t num_values, const int64_t* order, const int64_t* ends, int64_t num_places,
    int64_t* sums
) {
    sum_places(values, num_values, order, ends, num_places, sums);
}

extern "C" void sum_places_64(
    const int64_t* values, int64_t num_values, const int64_t* order, const int64_t* ends, int64_t num_places,
    int64_t* sums
) {
    sum_places(values, num_values, order, ends, num_places, sums);
}

// found: to it is added value v of window w, summed over the events of the key asked_keys[q] with asked[q] - windows[w] <= time <
// asked[q], at q * question_step + (w * num_values + v) * value_step; a negative window has no beginning. keys[k]
// ascend, and have the places starts[k] .. starts[k + 1], in order of time; sums[p][v] is the sum over all places before
// p. Questions in order of (key, time) are answered fastest: each search begins where the last one ended.
extern "C" void sums_within(
    const int64_t* keys, const int64_t* starts, int64_t num_keys, const int64_t* times, const int64_t* sums,
    int64_t num_values, const int64_t* asked_keys, const int64_t* asked, int64_t num_questions, const int64_t* windows,
    int64_t num_windows, int64_t* found, int64_t question_step, int64_t value_step
) {
    std::vector<int64_t> begins(num_windows);
    int64_t k = 0, end = 0, upto = 0;
    for (int64_t q = 0; q < num_questions; q++) {
        int64_t* out = found + q * question_step;
        const int64_t key = asked_keys[q], time = asked[q];
        const bool same_key = q && key == asked_keys[q - 1];
        if (!same_key) k = gallop(keys, q && key > asked_keys[q - 1] ? k : 0, num_keys, key);
        if (k == num_keys || keys[k] != key) continue;
        if (!same_key || time < asked[q - 1]) {
            upto = starts[k], end = starts[k + 1];
            std::fill(begins.begin(), begins.end(), upto);
        }
        upto = gallop(times, upto, end, time);
        for (int64_t w = 0; w < num_windows; w++) {
            if (windows[w] >= 0) begins[w] = gallop(times, begins[w], upto, time - windows[w]);
            const int64_t *high = sums + upto * num_values, *low = sums + begins[w] * num_values;
            for (int64_t v = 0; v < num_values; v++, out += value_step) *out += high[v] - low[v];
        }
    }
}

// out[c][row]: column c of parts[number[i]][c] summed over i = offsets[row] .. offsets[row + 1].
extern "C" void sum_rows(
    const int64_t* parts, int64_t num_columns, const int64_t* number, const int64_t* offsets, int64_t num_rows,
    int64_t* out
) {
    std::fill(out, out + num_columns * num_rows, 0);
    for (int64_t row = 0; row < num_rows; row++)
        for (int64_t i = offsets[row]; i < offsets[row + 1]; i++)
            for (int64_t c = 0; c < num_columns; c++) out[c * num_rows + row] += parts[number[i] * num_columns + c];
}

// Row q of `out`, `step` bytes from the one before it, becomes row number[q] of `rows`, which are `width` bytes long.
extern "C" void copy_rows(
    const char* rows, int64_t width, const int64_t* number, int64_t num_rows, char* out, int64_t step
) {
    for (int64_t q = 0; q < num_rows; q++) std::memcpy(out + q * step, rows + number[q] * width, width);
}

// halves[row][c] of values[c][row].
extern "C" void to_halves(const double* values, int64_t num_columns, int64_t num_rows, uint16_t* halves) {
    constexpr int64_t STEP = 64;
    uint16_t column[STEP];
    for (int64_t row = 0; row < num_rows; row += STEP) {
        const int64_t count = std::min(STEP, num_rows - row);
        for (int64_t c = 0; c < num_columns; c++) {
            for (int64_t i = 0; i < count; i++) column[i] = half_of(values[c * num_rows + row + i]);
            for (int64_t i = 0; i < count; i++) halves[(row + i) * num_columns + c] = column[i];
        }
    }
}
