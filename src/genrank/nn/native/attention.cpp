// Attention over jagged sequences, forward and backward, in fp32: the rule of nn/attention.py without padding or masks.
//
//     softmax   out = sum_j softmax_j(q.k_j * scale + bias) v_j         over j < prefix, and the query's own term
//     silu      out = sum_j silu(q.k_j * scale + bias) / N v_j
//
// One task is one sequence and a group of its heads. A task walks over blocks of queries; a block's scores fill a strip
// of (queries x longest prefix), so memory grows with the context, never with its square, and key blocks that nobody
// sees are never computed. What heads share (learned bias, log-minutes) is computed once per block for the group.
// Every output is written by one task in a fixed order, so results don't depend on the number of threads; only the
// learned tables' gradients are summed over tasks afterwards.
//
// Shapes: Q queries, T context tokens, H heads, D channels padded to P, R rows (queries) of a block, K columns (keys).

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

struct Strided {
    const float* data;
    int64_t token, head;  // strides in floats; channels are contiguous

    const float* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

}  // namespace

extern "C" {

struct AttentionCall {  // as in nn/native_attention.py
    int64_t num_sequences, num_queries, num_heads, channels, num_positions;
    const int64_t *query_offsets, *context_offsets;                      // (B + 1)
    const int32_t *prefix, *query_position, *query_time, *next_time;     // (Q); times relative to any base
    const int32_t *key_position, *key_time;                              // (T)
    Strided q, k, v, own_k, own_v;                                       // own_k.data is null: no own term
    const float *position_slopes, *time_slopes;                          // (H), null without
    const float *position_table, *time_table;                            // (num_positions), (buckets); null without
    const int32_t* bucket_begins;                                        // (buckets + 1) first second of each bucket
    float scale, normalizer;
    int64_t silu, num_threads;
    float *out, *logsumexp;                                              // (Q, H, D), (Q, H)
    const float* d_out;                                                  // (Q, H, D)
    float *d_q, *d_k, *d_v, *d_own_k, *d_own_v;                          // (Q or T, H, D)
    double *d_position_table, *d_time_table;                             // (tasks, num_positions), (tasks, BUCKETS)
};

}  // extern "C"

namespace {

constexpr int64_t BUCKETS = 129;
constexpr int64_t STRIP = 24576;  // floats of a strip: two or three of them stay in a core's second-level cache
constexpr float UNSEEN = -1e30f, SEEN = -1e29f;

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What a task allocates, reused by the next task of the same thread.
struct Buffers {
    std::vector<float> keys, keys_by_panel, values, values_by_panel, d_keys, d_values;  // per head of the group
    std::vector<float> queries, own_keys, d_outs, outs, scores, d_scores, shared, minutes, d_shared;
    std::vector<int32_t> bucket, distance;
};

float* sized(std::vector<float>& buffer, int64_t n) {
    if (static_cast<int64_t>(buffer.size()) < n) buffer.resize(n);
    return buffer.data();
}

class Task {
  public:
    Task(const AttentionCall& call, Buffers& buffers, int64_t sequence, int64_t first_head, int64_t num_heads, int64_t index)
        : c(call), b(buffers), heads(num_heads), first(first_head), task(index) {
        query_begin = c.query_offsets[sequence], query_end = c.query_offsets[sequence + 1];
        key_begin = c.context_offsets[sequence], num_keys = c.context_offsets[sequence + 1] - key_begin;
        P = padded(c.channels, V);
        columns = padded(std::max<int64_t>(num_keys, 1), PANEL);
        block_rows = std::clamp<int64_t>(STRIP / columns / ROWS * ROWS, 2 * ROWS, 8 * ROWS);
    }

    void forward() {
        if (query_begin == query_end) return;
        pack_context(false);
        for (int64_t row = query_begin; row < query_end; row += block_rows) {
            begin_block(row);
            for (int64_t h = 0; h < heads; h++) forward_head(h);
        }
    }

    void backward() {
        pack_context(true);
        float* d_keys = sized(b.d_keys, heads * num_keys * P);
        float* d_values = sized(b.d_values, heads * num_keys * P);
        std::fill_n(d_keys, heads * num_keys * P, 0.f);
        std::fill_n(d_values, heads * num_keys * P, 0.f);
        for (int64_t row = query_begin; row < query_end; row += block_rows) {
            begin_block(row);
            if (c.position_table) std::fill_n(sized(b.d_shared, rows * columns), rows * columns, 0.f);
            for (int64_t h = 0; h < heads; h++) backward_head(h);
            if (c.position_table) sum_tables();
        }
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < num_keys; t++) {
                const int64_t to = ((key_begin + t) * c.num_heads + first + h) * c.channels;
                std::copy_n(d_keys + (h * num_keys + t) * P, c.channels, c.d_k + to);
                std::copy_n(d_values + (h * num_keys + t) * P, c.channels, c.d_v + to);
            }
    }

  private:
    const AttentionCall& c;
    Buffers& b;
    int64_t heads, first, task, query_begin, query_end, key_begin, num_keys, P, columns, block_rows;
    int64_t row0 = 0, rows = 0, seen = 0, width = 0;  // of the current block: its queries, longest prefix, padded

    // Rows (T, P) and panels (T / PANEL, D, PANEL) of keys and values, zero where padded.
    void pack_context(bool for_backward) {
        const int64_t size = columns * P;
        float* keys = for_backward ? sized(b.keys, heads * size) : nullptr;
        float* values = for_backward ? nullptr : sized(b.values, heads * size);
        float* key_panels = sized(b.keys_by_panel, heads * size);
        float* value_panels = for_backward ? sized(b.values_by_panel, heads * size) : nullptr;
        for (int64_t h = 0; h < heads; h++) {
            pack_panels(c.k, h, key_panels + h * size);
            if (for_backward) {
                pack_rows(c.k, key_begin, num_keys, h, keys + h * size, 1.f);
                pack_panels(c.v, h, value_panels + h * size);
            } else {
                pack_rows(c.v, key_begin, num_keys, h, values + h * size, 1.f);
            }
        }
    }

    void pack_rows(const Strided& from, int64_t begin, int64_t n, int64_t h, float* to, float factor) const {
        for (int64_t t = 0; t < n; t++) {
            const float* source = from.at(begin + t, first + h);
            for (int64_t d = 0; d < c.channels; d++) to[t * P + d] = source[d] * factor;
            std::fill(to + t * P + c.channels, to + (t + 1) * P, 0.f);
        }
    }

    void pack_panels(const Strided& from, int64_t h, float* to) const {
        for (int64_t begin = 0; begin < columns; begin += PANEL, to += PANEL * P)
            for (int64_t t = 0; t < PANEL; t++)
                if (begin + t < num_keys) {
                    const float* source = from.at(key_begin + begin + t, first + h);
                    for (int64_t d = 0; d < c.channels; d++) to[d * PANEL + t] = source[d];
                } else {
                    for (int64_t d = 0; d < c.channels; d++) to[d * PANEL + t] = 0.f;
                }
    }

    void begin_block(int64_t row) {
        row0 = row, rows = std::min(block_rows, query_end - row), seen = 0;
        for (int64_t i = 0; i < rows; i++) seen = std::max<int64_t>(seen, c.prefix[row + i]);
        width = padded(seen, PANEL);
        sized(b.scores, block_rows * columns), sized(b.d_scores, block_rows * columns);
        if (c.time_slopes) fill_minutes();
        if (c.position_table) fill_shared();
    }

    // log2(1 + minutes) between every query of the block and every key that it sees.
    void fill_minutes() {
        float* minutes = sized(b.minutes, block_rows * columns);
        for (int64_t i = 0; i < rows; i++) {
            const int32_t time = c.query_time[row0 + i];
            const int32_t* key_time = c.key_time + key_begin;
            for (int64_t j = 0; j < c.prefix[row0 + i]; j++)
                minutes[i * columns + j] = 1.f + static_cast<float>(std::max(time - key_time[j], 0)) / 60.f;
            for (int64_t j = 0; j < c.prefix[row0 + i]; j += V)
                store(minutes + i * columns + j, log2_of(load(minutes + i * columns + j)));
        }
    }

    // The learned bias, which all heads share, and the table entries that it came from.
    void fill_shared() {
        float* shared = sized(b.shared, block_rows * columns);
        if (static_cast<int64_t>(b.bucket.size()) < block_rows * columns)
            b.bucket.resize(block_rows * columns), b.distance.resize(block_rows * columns);
        const int32_t last = static_cast<int32_t>(c.num_positions - 1);
        for (int64_t i = 0; i < rows; i++) {
            const int32_t position = c.query_position[row0 + i], time = c.next_time[row0 + i];
            const int32_t *key_position = c.key_position + key_begin, *key_time = c.key_time + key_begin;
            int32_t *bucket = b.bucket.data() + i * columns, *distance = b.distance.data() + i * columns;
            float* row = shared + i * columns;
            const int64_t n = c.prefix[row0 + i];
            for (int64_t j = 0; j < n; j++) {
                bucket[j] = std::max(std::abs(time - key_time[j]), 1);
                distance[j] = std::min(std::abs(position - key_position[j]), last);
            }
            for (int64_t j = 0; j < n; j += V) to_bucket(bucket + j);
            for (int64_t j = 0; j < n; j++) row[j] = c.position_table[distance[j]] + c.time_table[bucket[j]];
        }
    }

    // V numbers of seconds to their buckets: a guess by logarithm, made exact by the buckets' first seconds.
    void to_bucket(int32_t* seconds) const {
        float guess[V];
        for (int64_t l = 0; l < V; l++) guess[l] = static_cast<float>(std::max(seconds[l], 1));
        store(guess, log2_of(load(guess)) * (0.6931471806f / 0.301f));
        for (int64_t l = 0; l < V; l++) {
            const int32_t k = std::min(static_cast<int32_t>(guess[l]), static_cast<int32_t>(BUCKETS - 1)), s = seconds[l];
            seconds[l] = k + (s >= c.bucket_begins[k + 1]) - (s < c.bucket_begins[k]);
        }
    }

    float own_bias(int64_t i) const {
        if (!c.position_table) return 0.f;
        return c.position_table[0] + c.time_table[own_bucket(i)];
    }

    int64_t own_bucket(int64_t i) const {
        const int32_t s = std::max(std::abs(c.next_time[row0 + i] - c.query_time[row0 + i]), 1);
        return std::upper_bound(c.bucket_begins + 1, c.bucket_begins + BUCKETS, s) - c.bucket_begins - 1;
    }

    // scores (rows, width) = q k^T * scale, without bias; also packs the block's queries, scaled.
    void fill_scores(int64_t h) {
        float* queries = sized(b.queries, block_rows * P);
        pack_rows(c.q, row0, rows, h, queries, c.scale);
        const float* panel = b.keys_by_panel.data() + h * columns * P;
        for (int64_t j = 0; j < width; j += PANEL, panel += PANEL * P)
            multiply<false>(rows, PANEL, c.channels, queries, P, 1, panel, PANEL, b.scores.data() + j, columns);
    }

    vec bias(int64_t i, int64_t h, int64_t j) const {
        vec sum = {};
        if (c.position_slopes) {
            const ivec distance = c.query_position[row0 + i] - load(c.key_position + key_begin + j);
            sum = -c.position_slopes[first + h] * to_float(distance < 0 ? -distance : distance);
        }
        if (c.time_slopes) sum -= c.time_slopes[first + h] * load(b.minutes.data() + i * columns + j);
        if (c.position_table) sum += load(b.shared.data() + i * columns + j);
        return sum;
    }

    // Scores with their bias, UNSEEN beyond the prefix.
    vec biased(const float* row, int64_t i, int64_t h, int64_t j) const {
        const vec score = load(row + j) + bias(i, h, j);
        return lanes() + static_cast<int32_t>(j) < c.prefix[row0 + i] ? score : UNSEEN + vec{};
    }

    float own_score(int64_t i, int64_t h) const {
        return dot(b.queries.data() + i * P, c.own_k.at(row0 + i, first + h), c.channels) + own_bias(i);
    }

    void forward_head(int64_t h) {
        fill_scores(h);
        float* outs = sized(b.outs, block_rows * P);
        float own_weight[8 * ROWS], factor[8 * ROWS];
        for (int64_t i = 0; i < rows; i++) {
            float* row = b.scores.data() + i * columns;
            const float own = c.own_k.data ? own_score(i, h) : UNSEEN;
            if (c.silu) {
                own_weight[i] = c.own_k.data ? own / (1.f + std::exp(-own)) : 0.f;
                factor[i] = 1.f / c.normalizer;
                for (int64_t j = 0; j < width; j += V) {
                    const vec s = biased(row, i, h, j);
                    store(row + j, s > SEEN ? s * sigmoid(s) : vec{});
                }
            } else {
                softmax(row, i, h, own, own_weight[i], factor[i]);
            }
        }
        const float* values = b.values.data() + h * columns * P;
        multiply<false>(rows, P, seen, b.scores.data(), columns, 1, values, P, outs, P);
        for (int64_t i = 0; i < rows; i++) {
            float* out = c.out + ((row0 + i) * c.num_heads + first + h) * c.channels;
            const float* own_v = c.own_k.data ? c.own_v.at(row0 + i, first + h) : outs + i * P;
            for (int64_t d = 0; d < c.channels; d++)
                out[d] = factor[i] * (outs[i * P + d] + own_weight[i] * own_v[d]);
        }
    }

    // exp(score - max) in place; factor is one over their sum.
    void softmax(float* row, int64_t i, int64_t h, float own, float& own_weight, float& factor) {
        vec highest = own + vec{};
        for (int64_t j = 0; j < width; j += V) {
            const vec s = biased(row, i, h, j);
            store(row + j, s);
            highest = s > highest ? s : highest;
        }
        const float top = maximum(highest);
        vec total = {};
        for (int64_t j = 0; j < width; j += V) {
            const vec e = exp_of(load(row + j) - top);
            store(row + j, e);
            total += e;
        }
        own_weight = c.own_k.data ? std::exp(own - top) : 0.f;
        const float sum = total_of(total) + own_weight;
        factor = 1.f / sum;
        c.logsumexp[(row0 + i) * c.num_heads + first + h] = top + std::log(sum);
    }

    void backward_head(int64_t h) {
        fill_scores(h);
        float* d_outs = sized(b.d_outs, block_rows * P);
        const int64_t token = c.num_heads * c.channels;
        pack_rows({c.d_out, token, c.channels}, row0, rows, h, d_outs, c.silu ? 1.f / c.normalizer : 1.f);
        const float* panel = b.values_by_panel.data() + h * columns * P;
        for (int64_t j = 0; j < width; j += PANEL, panel += PANEL * P)
            multiply<false>(rows, PANEL, c.channels, d_outs, P, 1, panel, PANEL, b.d_scores.data() + j, columns);
        float* d_queries = sized(b.outs, block_rows * P);
        float d_own[8 * ROWS];
        for (int64_t i = 0; i < rows; i++) d_own[i] = c.silu ? d_silu(i, h) : d_softmax(i, h);
        const float *scores = b.scores.data(), *d_scores = b.d_scores.data();
        multiply<false>(rows, P, seen, d_scores, columns, 1, b.keys.data() + h * columns * P, P, d_queries, P);
        multiply<true>(seen, P, rows, d_scores, 1, columns, b.queries.data(), P, b.d_keys.data() + h * num_keys * P, P);
        multiply<true>(seen, P, rows, scores, 1, columns, d_outs, P, b.d_values.data() + h * num_keys * P, P);
        for (int64_t i = 0; i < rows; i++) {
            const float* own_k = c.own_k.data ? c.own_k.at(row0 + i, first + h) : d_queries + i * P;
            float* d_q = c.d_q + (row0 + i) * token + (first + h) * c.channels;
            for (int64_t d = 0; d < c.channels; d++) d_q[d] = c.scale * (d_queries[i * P + d] + d_own[i] * own_k[d]);
        }
    }

    // Weights into scores and their gradients into d_scores, for one query; the gradient of its own score comes back.
    float d_softmax(int64_t i, int64_t h) {
        float *row = b.scores.data() + i * columns, *d_row = b.d_scores.data() + i * columns;
        const int64_t at = (row0 + i) * c.num_heads + first + h;
        const float *d_out = b.d_outs.data() + i * P, log_sum = c.logsumexp[at];
        const float mean = dot(d_out, c.out + at * c.channels, c.channels);
        for (int64_t j = 0; j < width; j += V) {
            const vec weight = exp_of(biased(row, i, h, j) - log_sum);
            store(row + j, weight);
            store_d_score(d_row, i, j, weight * (load(d_row + j) - mean));
        }
        if (!c.own_k.data) return 0.f;
        const float weight = std::exp(own_score(i, h) - log_sum);
        return d_own_term(i, h, weight, weight * (dot(d_out, c.own_v.at(row0 + i, first + h), c.channels) - mean));
    }

    float d_silu(int64_t i, int64_t h) {
        float *row = b.scores.data() + i * columns, *d_row = b.d_scores.data() + i * columns;
        const float* d_out = b.d_outs.data() + i * P;
        for (int64_t j = 0; j < width; j += V) {
            const vec s = biased(row, i, h, j), share = sigmoid(s);
            store(row + j, s > SEEN ? s * share : vec{});
            const vec d_score = share * (1.f + s * (1.f - share)) * load(d_row + j);
            store_d_score(d_row, i, j, s > SEEN ? d_score : vec{});
        }
        if (!c.own_k.data) return 0.f;
        const float s = own_score(i, h), share = 1.f / (1.f + std::exp(-s));
        const float d_weight = dot(d_out, c.own_v.at(row0 + i, first + h), c.channels);
        return d_own_term(i, h, s * share, d_weight * share * (1.f + s * (1.f - share)));
    }

    void store_d_score(float* d_row, int64_t i, int64_t j, vec d_score) {
        store(d_row + j, d_score);
        if (c.position_table) {
            float* d_shared = b.d_shared.data() + i * columns + j;
            store(d_shared, load(d_shared) + d_score);
        }
    }

    float d_own_term(int64_t i, int64_t h, float weight, float d_score) {
        const int64_t to = ((row0 + i) * c.num_heads + first + h) * c.channels;
        const float *d_out = b.d_outs.data() + i * P, *query = b.queries.data() + i * P;
        for (int64_t d = 0; d < c.channels; d++) {
            c.d_own_k[to + d] = d_score * query[d];
            c.d_own_v[to + d] = weight * d_out[d];
        }
        if (c.position_table) {
            c.d_position_table[task * c.num_positions] += d_score;
            c.d_time_table[task * BUCKETS + own_bucket(i)] += d_score;
        }
        return d_score;
    }

    // The block's gradients of the learned bias into this task's tables. Equal buckets come in runs.
    void sum_tables() {
        double* by_position = c.d_position_table + task * c.num_positions;
        double* by_time = c.d_time_table + task * BUCKETS;
        for (int64_t i = 0; i < rows; i++) {
            const float* d_row = b.d_shared.data() + i * columns;
            const int32_t *bucket = b.bucket.data() + i * columns, *distance = b.distance.data() + i * columns;
            double run = 0.;
            int32_t of = 0;
            for (int64_t j = 0; j < c.prefix[row0 + i]; j++) {
                by_position[distance[j]] += d_row[j];
                if (bucket[j] != of) by_time[of] += run, run = 0., of = bucket[j];
                run += d_row[j];
            }
            by_time[of] += run;
        }
    }
};

template <class Work>
void run_tasks(const AttentionCall& call, int64_t groups, Work work) {
    const int64_t size = (call.num_heads + groups - 1) / groups, num_tasks = call.num_sequences * groups;
    // The longest first, so that no thread is left alone with one at the end.
    std::vector<std::pair<int64_t, int64_t>> order(num_tasks);
    for (int64_t i = 0; i < num_tasks; i++) {
        const int64_t s = i / groups;
        const int64_t keys = call.context_offsets[s + 1] - call.context_offsets[s];
        order[i] = {-(call.query_offsets[s + 1] - call.query_offsets[s] + 1) * (keys + 1), i};
    }
    std::sort(order.begin(), order.end());
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast<int>(call.num_threads))
    for (int64_t n = 0; n < num_tasks; n++) {
        static thread_local Buffers buffers;
        const int64_t i = order[n].second, head = i % groups * size;
        const int64_t heads = std::min(size, call.num_heads - head);
        if (heads <= 0) continue;
        Task task(call, buffers, i / groups, head, heads, i);
        work(task);
    }
}

}  // namespace

extern "C" {

void attention_forward(const AttentionCall* call, int64_t groups) {
    run_tasks(*call, groups, [](Task& task) { task.forward(); });
}

void attention_backward(const AttentionCall* call, int64_t groups) {
    run_tasks(*call, groups, [](Task& task) { task.backward(); });
}

}  // extern "C"
