// A training step of ALISTA, except Adam, for some signals of a batch: signals, measurements, T layers forward, loss, T
// layers backward, and the sums of their gradients. What step.cu is on a GPU; see ReferenceOps.fuse_alista.
#pragma once
#include "layers.h"
#include "philox.cuh"

// The law of the signals: Aᵀ (N, M); W (M, N), needed with noise only; and the rest as in step.cu.
template <class Real> struct Signals {
    const Real *A_transposed, *W;
    const Word* limits;
    const double* log_ratio;
    Law<Real> law;
    int positive;
    Real noise, unit;
    long M;
    Word seed, stream, step;
    double share, hard, weight_power;
};

// Words `first` … first + count − 1, in an array that begins in the room; that has place for seven more.
__forceinline__ const Word* draw(const Source& source, Word first, long count, Word* room)
{
    const Word begin = first / 4, blocks = (first + count + 3) / 4 - begin;
    for (Word i = 0; i < blocks; ++i) {
        const Words words = philox(source, begin + i);
        for (int c = 0; c < 4; ++c) room[4 * i + c] = words.words[c];
    }
    return room + first % 4;
}

// The sum of term(0) … term(count − 1) in float64, in the same order for all vector widths.
template <class Term> __forceinline__ double total(long count, Term term)
{
    const long SUMS = 16;
    double sums[SUMS] = {}, sum = 0;
    long first = 0;
    for (; first + SUMS <= count; first += SUMS)
        for (long c = 0; c < SUMS; ++c) sums[c] += term(first + c);
    for (long j = first; j < count; ++j) sums[j - first] += term(j);
    for (long c = 0; c < SUMS; ++c) sum += sums[c];
    return sum;
}

// Draws the signal of a row of the batch, as a list of its entries, and returns its weight. There is room for 2N + 7
// words, and for the N that decide magnitudes.
template <class Real>
__forceinline__ Real draw_signal(const Signals<Real>& signals, Place place, long N, Word* room, Word* sizes, List<Real>& x)
{
    const Word stream = place.is_hard ? signals.stream + HARD_STREAM : signals.stream;
    const Word* const words = draw({signals.seed, stream, signals.step, CODES}, 2 * place.number * N, 2 * N, room);
    const Word* const limits = signals.limits + (place.is_hard ? N : 0);
    x.length = 0;
    for (long j = 0; j < N; ++j) {  // without a branch
        x.index[x.length] = j;
        sizes[x.length] = words[2 * j + 1];
        x.length += is_present(words[2 * j], limits[j]);
    }
    const Law<Real> law = signals.law;
    INDEPENDENT
    for (long i = 0; i < x.length; ++i) {
        const Real entry = law.magnitude(sizes[i]);
        x.value[i] = signals.positive ? fabs(entry) : entry;
    }
    if (!(signals.hard > 0)) return 1;
    double log_density = signals.log_ratio[N];
    for (long i = 0; i < x.length; ++i) log_density += x.value[i] != 0 ? signals.log_ratio[x.index[i]] : 0;
    return pow(1 / (1 - signals.hard + signals.hard * exp(log_density)), signals.weight_power);
}

// Adds noise to measurements at the SNR of the law. There is room for M + 7 words.
template <class Real>
__forceinline__ void add_noise(const Signals<Real>& signals, Place place, Word* room, Real* y)
{
    const long M = signals.M;
    const Word stream = place.is_hard ? signals.stream + HARD_STREAM : signals.stream;
    const Word* const words = draw({signals.seed, stream, signals.step, NOISE}, place.number * M, M, room);
    const double mean = total(M, [=](long m) { return double(y[m]); }) / M;
    const double squares = total(M, [=](long m) { return (y[m] - mean) * (y[m] - mean); });
    const Real deviation = Real(sqrt(squares / M)) * signals.noise;
    INDEPENDENT
    for (long m = 0; m < M; ++m) y[m] += deviation * normal_of<Real>(words[m]);
}

// What the layers did to the samples of a shard, for the backward pass: for each sample, one layer after the other, the
// index, u, z and code of every entry that thresholding let live or that is NEAR. Nothing comes back through others.
template <class Real> struct Record {
    unsigned* index;
    Real *u, *z;
    signed char* code;
    long room, depth;       // entries of a sample
    long* ends;             // (shard, depth + 1): where the layers of a sample end, after a 0
    Real* z_now;            // of the entries of a list
    signed char* code_now;

    // The z and codes of a layer's list.
    __forceinline__ auto entries(long)
    {
        Real* __restrict__ const zs = z_now;
        signed char* __restrict__ const codes = code_now;
        return [zs, codes](long i, Real z, int code) {
            zs[i] = z;
            codes[i] = code;
        };
    }

    // Takes the list over, and drops what is OFF from it. (A NaN is, but stays in x and so in the loss.)
    __forceinline__ void layer(long sample, long t, List<Real>& list, const Real* product)
    {
        long* const end = ends + sample * (depth + 1) + t;
        const long first = sample * room + end[0];
        long length = 0;
        for (long i = 0; i < list.length; ++i) {
            const unsigned j = list.index[i];
            index[first + length] = list.index[length] = j;
            u[first + length] = product[j];
            z[first + length] = z_now[i];
            code[first + length] = code_now[i];
            list.value[length] = list.value[i];
            length += code_now[i] != OFF;
        }
        list.length = length;
        end[1] = end[0] + length;
    }
};

// The work arrays of a shard. `stride` is N and `stride_y` is M, rounded up to whole vectors.
template <class Real> struct Work {
    long stride, stride_y;
    Word *words, *sizes;  // 2·max(N, M) + 7 and N
    unsigned *index, *target_index;
    Real *value, *target, *y, *seen, *products, *x, *delta;  // rows of a stride each, but `delta` is one row
};

// Adds the loss and the gradients of rows `first_row` … first_row + shard − 1 of the batch to `sums`, which are the loss,
// ∂L/∂α (depth) and ∂L/∂θ (depth). `backward` is the transpose of −AᵀW, packed.
template <class Real>
__forceinline__ void alista_step(
    const Signals<Real>& signals, const Layers<Real>& layers, const Real* backward, long first_row, long shard,
    const Work<Real>& work, Record<Real> record, double* sums)
{
    const long N = layers.N, M = signals.M, stride = work.stride;
    List<Real> lists[SHARD], targets[SHARD];
    Real weights[SHARD];

    // -- signals, their weights and Wᵀy ------------------------------------------------------------------------------

    for (long i = 0; i < shard; ++i) {
        targets[i] = {work.target_index + i * stride, work.target + i * stride, 0};
        weights[i] = draw_signal(
            signals, place_of(first_row + i, signals.share), N, work.words, work.sizes, targets[i]);
    }
    if (signals.noise > 0 || signals.unit > 0) multiply(targets, shard, signals.A_transposed, M, work.y);
    for (long i = 0; i < shard; ++i) {
        Real* const y = work.y + i * M;
        if (signals.noise > 0) add_noise(signals, place_of(first_row + i, signals.share), work.words, y);
        if (signals.unit > 0) {  // the network works on y / s, and ‖s x − x*‖² = s² ‖x − x*/s‖²
            const double squares = total(M, [=](long m) { return double(y[m]) * double(y[m]); });
            const Real factor = Real(sqrt(squares)) / signals.unit;
            if (factor > 0) {
                for (long m = 0; m < M; ++m) y[m] /= factor;
                for (long e = 0; e < targets[i].length; ++e) targets[i].value[e] /= factor;
                weights[i] *= factor * factor;
            }
        }
    }
    if (signals.noise > 0) {
        for (long i = 0; i < shard; ++i) {
            lists[i] = {work.index + i * work.stride_y, work.y + i * M, 0};
            for (long m = 0; m < M; ++m) lists[i].index[m] = m;
            lists[i].length = M;
        }
        multiply(lists, shard, signals.W, N, work.seen);
    } else {  // y = A x*, so that Wᵀy is −(−WᵀA x*), a sparse product as well
        for (long i = 0; i < shard; ++i) targets[i].spread_to(work.x + i * N, N);
        multiply_packed(targets, work.x, N, shard, layers.dense, layers.packed, N, N, work.products, stride);
        for (long i = 0; i < shard; ++i)
            for (long j = 0; j < N; ++j) work.seen[i * N + j] = -work.products[i * stride + j];
    }

    // -- forward pass, and loss --------------------------------------------------------------------------------------

    for (long i = 0; i < shard; ++i) {
        lists[i] = {work.index + i * stride, work.value + i * stride, 0};
        record.ends[i * (record.depth + 1)] = 0;
        for (long j = 0; j < N; ++j) work.x[i * N + j] = 0;
    }
    through_layers(layers, work.seen, N, shard, lists, work.products, stride, work.x, record);
    for (long i = 0; i < shard; ++i) {  // x becomes δ
        Real* __restrict__ const x = work.x + i * N;
        const Real weight = weights[i];
        for (long e = 0; e < targets[i].length; ++e) x[targets[i].index[e]] -= targets[i].value[e];
        *sums += 0.5 * total(N, [=](long j) { return double(x[j]) * double(weight * x[j]); });
        for (long j = 0; j < N; ++j) x[j] *= weight;
    }

    // -- backward pass: δ becomes d_z, which is sparse ---------------------------------------------------------------

    for (long t = layers.depth - 1; t >= 0; --t) {
        const Real alpha = layers.step_size[t];
        for (long i = 0; i < shard; ++i) {
            const long begin = record.ends[i * (record.depth + 1) + t];
            const long first = i * record.room + begin;
            List<Real>& list = lists[i];
            list.index = record.index + first;
            list.length = record.ends[i * (record.depth + 1) + t + 1] - begin;
            Real* const delta = work.x + i * N;
            for (long e = 0; e < list.length; ++e) work.delta[e] = delta[list.index[e]];
            auto go_back = [&](auto run) {
                const Real* const z = record.z + first;
                run(work.delta, record.code + first, [=](long e) { return z[e]; }, record.u + first,
                    layers.threshold + t, layers.window, list.length, list.value, sums + 1 + t,
                    sums + 1 + layers.depth + t);
            };
            if (layers.window > 0)
                go_back([](auto... all) { shrink_row_backward<true, false>(all...); });
            else
                go_back([](auto... all) { shrink_row_backward<false, false>(all...); });
        }
        if (t == 0) break;  // x_0 = 0 depends on nothing
        for (long i = 0; i < shard; ++i) lists[i].spread_to(work.x + i * N, N);
        multiply_packed(lists, work.x, N, shard, layers.dense, backward, N, N, work.products, stride);
        for (long i = 0; i < shard; ++i) {  // ∂L/∂x = d_z − α d_z WᵀA, where the layer before needs it
            const long* const end = record.ends + i * (record.depth + 1) + t;
            for (long e = end[-1]; e < end[0]; ++e) {
                const unsigned j = record.index[i * record.room + e];
                work.x[i * N + j] += alpha * work.products[i * stride + j];
            }
        }
    }
}
