// A training step of ALISTA, except Adam, for some signals of a batch: signals, measurements, T layers forward, loss, T
// layers backward, and the sums of their gradients. What step.cu is on a GPU; see ReferenceOps.fuse_alista. A signal has a
// row for each snapshot.
#pragma once
#include "layers.h"
#include "philox.cuh"

// The law of the signals, whose numbers are real or complex: Aᵀ (N, M); W̄ (M, N), needed with noise only; and the rest as
// in step.cu.
template <class Number> struct Signals {
    typedef RealOf<Number> Real;
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

// Draws a signal of the batch, as lists of the entries of its rows, and returns its weight. There is room for 2N + 7 words,
// for the N that decide magnitudes, and for the entries that are present, if they are joint.
template <bool ALONE, class Number, class Real = RealOf<Number>>
__forceinline__ Real draw_signal(
    const Signals<Number>& signals, const Layers<Number>& layers, Place place, Word* room, Word* sizes,
    unsigned* present, List<Number>* rows)
{
    const long N = layers.N, L = layers.snapshots, G = layers.group;
    const Word stream = place.is_hard ? signals.stream + HARD_STREAM : signals.stream;
    const Word* const limits = signals.limits + (place.is_hard ? N : 0);
    const Law<Real> law = signals.law;
    long entries = 0;
    for (long row = 0; row < L; ++row) {
        List<Number>& x = rows[row];
        const Source source = {signals.seed, stream, signals.step, CODES};
        const Word* const words = draw(source, 2 * (place.number * L + row) * N, 2 * N, room);
        x.length = 0;
        if constexpr (ALONE) {
            for (long j = 0; j < N; ++j) {  // without a branch
                x.index[x.length] = j;
                sizes[x.length] = words[2 * j + 1];
                x.length += is_present(words[2 * j], limits[j]);
            }
            INDEPENDENT
            for (long i = 0; i < x.length; ++i) {
                const Real entry = law.magnitude(sizes[i]);
                x.value[i] = signals.positive ? fabs(entry) : entry;
            }
        } else {
            for (long j = 0; row == 0 && j < N; j += G) {  // the first number of an entry decides for all
                present[entries] = j;
                entries += is_present(words[2 * j], limits[j]);
            }
            for (long i = 0; i < entries; ++i)
                for (long j = present[i]; j < present[i] + G; ++j) {
                    x.index[x.length] = j;
                    sizes[x.length++] = words[2 * j + 1];
                }
            INDEPENDENT
            for (long i = 0; i < x.length; ++i) x.value[i] = law.template number<Number>(sizes[i]);
        }
    }
    if (!(signals.hard > 0)) return 1;
    double log_density = signals.log_ratio[layers.entries()];
    if constexpr (ALONE)
        for (long i = 0; i < rows->length; ++i)
            log_density += rows->value[i] != 0 ? signals.log_ratio[rows->index[i]] : 0;
    else
        for (long i = 0; i < entries; ++i) {
            bool is_zero = true;
            for (long row = 0; row < L; ++row)
                for (long c = 0; c < G; ++c) is_zero = is_zero && !is_above(rows[row].value[i * G + c], 0);
            log_density += is_zero ? 0 : signals.log_ratio[present[i] / G];
        }
    return pow(1 / (1 - signals.hard + signals.hard * exp(log_density)), signals.weight_power);
}

// Adds noise to the measurements of a signal at the SNR of the law. There is room for M + 7 words.
template <class Number, class Real = RealOf<Number>>
__forceinline__ void add_noise(const Signals<Number>& signals, long snapshots, Place place, Word* room, Number* y)
{
    const long M = signals.M, all = snapshots * M;
    const Word stream = place.is_hard ? signals.stream + HARD_STREAM : signals.stream;
    const Real* const parts = (const Real*)y;
    double squares = 0;
    for (long part = 0; part < PARTS<Number>; ++part) {
        const Real* const own = parts + part;
        const double mean = total(all, [=](long m) { return double(own[PARTS<Number> * m]); }) / all;
        squares += total(all, [=](long m) {
            const double difference = own[PARTS<Number> * m] - mean;
            return difference * difference;
        });
    }
    const Real deviation = Real(sqrt(squares / all)) * signals.noise;
    for (long row = 0; row < snapshots; ++row) {
        const Source source = {signals.seed, stream, signals.step, NOISE};
        const Word* const words = draw(source, (place.number * snapshots + row) * M, M, room);
        Number* const of_row = y + row * M;
        INDEPENDENT
        for (long m = 0; m < M; ++m) of_row[m] = of_row[m] + deviation * normal_of<Number>(words[m]);
    }
}

// What the layers did to the rows of a shard, for the backward pass: for each row, one layer after the other, the index,
// u and z of every number of an entry that thresholding let live or that is NEAR, and the codes of these entries. Nothing
// comes back through others.
template <class Number> struct Record {
    typedef RealOf<Number> Real;
    unsigned* index;
    Number *u, *z;
    signed char* code;
    long room, depth;       // numbers of a row
    long* ends;             // (shard, depth + 1): where the layers of a row end, after a 0, in numbers
    Number* z_now;          // of the entries of a list
    signed char* code_now;

    // Where layer t of a row begins, and how many numbers it has.
    __forceinline__ long begin(long row, long t) const { return ends[row * (depth + 1) + t]; }
    __forceinline__ long count(long row, long t) const { return begin(row, t + 1) - begin(row, t); }

    // The z and codes of a layer's list.
    __forceinline__ auto entries(long)
    {
        Number* __restrict__ const zs = z_now;
        signed char* __restrict__ const codes = code_now;
        return [zs, codes](long i, Number z, int code) {
            zs[i] = z;
            codes[i] = code;
        };
    }

    // Takes the list over, and drops what is OFF from it. (A NaN is, but stays in x and so in the loss.)
    __forceinline__ void layer(long sample, long t, List<Number>& list, const Number* product)
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

    // Takes over the chosen entries of a row, which is still z.
    __forceinline__ void layer(long row, long t, const Choice<Real>& choice, long group, const Number* of_row, const Number* product)
    {
        long* const end = ends + row * (depth + 1) + t;
        long first = row * room + end[0];
        signed char* const codes = code + row * room + end[0] / group;
        for (long i = 0; i < choice.length; ++i) {
            codes[i] = choice.code[i];
            for (long j = choice.index[i] * group; j < long(choice.index[i] + 1) * group; ++j, ++first) {
                index[first] = j;
                u[first] = product[j];
                z[first] = of_row[j];
            }
        }
        end[1] = end[0] + choice.length * group;
    }
};

// The work arrays of a shard. `stride` is N and `stride_y` is M, rounded up to whole lines; a row of `products` has `room`
// real numbers.
template <class Number> struct Work {
    long stride, stride_y, room;
    Word *words, *sizes;  // 2·max(N, M) + 7 and N
    unsigned *index, *target_index;
    Number *value, *target, *y, *seen;
    RealOf<Number>* products;
    Number *x, *delta;  // rows of a stride each; `delta` has those of a sample
    Choice<RealOf<Number>> choice;
};

// The backward pass of layer t's thresholding for the rows of a sample, from `first` on, whose lists become those of d_z.
template <bool ALONE, class Number>
__forceinline__ void go_back(
    const Layers<Number>& layers, const Record<Number>& record, long t, long first, const Work<Number>& work,
    List<Number>* lists, double* sums)
{
    typedef RealOf<Number> Real;
    for (long row = first; row < first + layers.snapshots; ++row) {
        List<Number>& list = lists[row];
        list.index = record.index + row * record.room + record.begin(row, t);
        list.length = record.count(row, t);
        const Number* const delta = work.x + row * layers.N;
        Number* const of_list = work.delta + (row - first) * work.stride;
        for (long e = 0; e < list.length; ++e) of_list[e] = delta[list.index[e]];
    }
    const long begin = record.begin(first, t), place = first * record.room + begin;
    double *const d_step_size = sums + 1 + t, *const d_threshold = d_step_size + layers.depth;
    const Real* const threshold = layers.threshold + t;
    if constexpr (ALONE) {
        const Real* const z = record.z + place;
        auto run = [&](auto run) {
            run(work.delta, record.code + place, [=](long e) { return z[e]; }, record.u + place, threshold,
                layers.window, lists[first].length, lists[first].value, d_step_size, d_threshold);
        };
        layers.window > 0 ? run([](auto... all) { shrink_row_backward<true, false>(all...); })
                          : run([](auto... all) { shrink_row_backward<false, false>(all...); });
    } else {
        const long size = PARTS<Number> * layers.group;
        const long apart = PARTS<Number> * work.stride, kept_apart = PARTS<Number> * record.room;
        const Entries entries = {layers.snapshots, size, lists[first].length / layers.group};
        const signed char* const code = record.code + first * record.room + begin / layers.group;
        const Sample<const Real> delta = {(const Real*)work.delta, apart};
        const Sample<const Real> z = {(const Real*)(record.z + place), kept_apart};
        const Sample<const Real> u = {(const Real*)(record.u + place), kept_apart};
        const Sample<Real> d_z = {(Real*)lists[first].value, apart};
        with_shape(entries, [&](const auto& shape) {
            auto run = [&](auto run) {
                run(shape, delta, code, z, u, threshold, layers.window, d_z, d_step_size, d_threshold);
            };
            layers.window > 0 ? run([](auto... all) { shrink_sample_backward<true, false>(all...); })
                              : run([](auto... all) { shrink_sample_backward<false, false>(all...); });
        });
    }
}

// One number of a product that is not put together yet.
template <class Number, class Real = RealOf<Number>>
__forceinline__ Number product_at(const Real* sums, long apart, long j)
{
    if constexpr (PARTS<Number> == 1)
        return sums[j];
    else
        return {sums[2 * j] - sums[apart + 2 * j + 1], sums[2 * j + 1] + sums[apart + 2 * j]};
}

// Adds the loss and the gradients of samples `first_sample` … first_sample + samples − 1 of the batch to `sums`, which are
// the loss, ∂L/∂α (depth) and ∂L/∂θ (depth). `backward` is the conjugate transpose of −AᵀW̄, packed.
template <bool ALONE, class Number, class Real = RealOf<Number>>
__forceinline__ void alista_step(
    const Signals<Number>& signals, const Layers<Number>& layers, const Real* backward, long first_sample, long samples,
    Work<Number> work, Record<Number> record, double* sums)
{
    const long N = layers.N, M = signals.M, L = layers.snapshots, stride = work.stride, room = work.room;
    const long rows = samples * L, numbers = PARTS<Number> * N, apart = room / PARTS<Number>;
    List<Number>* const lists = (List<Number>*)__builtin_alloca(2 * rows * sizeof *lists);
    List<Number>* const targets = lists + rows;
    Real weights[SHARD];

    // -- signals, their weights and Wᴴy ------------------------------------------------------------------------------

    for (long i = 0; i < rows; ++i) targets[i] = {work.target_index + i * stride, work.target + i * stride, 0};
    for (long i = 0; i < samples; ++i)
        weights[i] = draw_signal<ALONE>(
            signals, layers, place_of(first_sample + i, signals.share), work.words, work.sizes, work.choice.index,
            targets + i * L);
    if (signals.noise > 0 || signals.unit > 0)
        multiply(targets, rows, signals.A_transposed, PARTS<Number> * M, (Real*)work.y);
    for (long i = 0; i < samples; ++i) {
        Number* const y = work.y + i * L * M;
        if (signals.noise > 0) add_noise(signals, L, place_of(first_sample + i, signals.share), work.words, y);
        if (signals.unit > 0) {  // the network works on y / s, and ‖s x − x*‖² = s² ‖x − x*/s‖²
            Real* const parts = (Real*)y;
            const long count = PARTS<Number> * L * M;
            const double squares = total(count, [=](long m) { return double(parts[m]) * double(parts[m]); });
            const Real factor = Real(sqrt(squares)) / signals.unit;
            if (factor > 0) {
                for (long m = 0; m < count; ++m) parts[m] /= factor;
                for (long row = i * L; row < (i + 1) * L; ++row) {
                    Real* const of_target = (Real*)targets[row].value;
                    for (long e = 0; e < PARTS<Number> * targets[row].length; ++e) of_target[e] /= factor;
                }
                weights[i] *= factor * factor;
            }
        }
    }
    if (signals.noise > 0) {
        for (long i = 0; i < rows; ++i) {
            lists[i] = {work.index + i * work.stride_y, work.y + i * M, 0};
            for (long m = 0; m < M; ++m) lists[i].index[m] = m;
            lists[i].length = M;
        }
        multiply(lists, rows, signals.W, numbers, (Real*)work.seen);
    } else {  // y = A x*, so that Wᴴy is −(−WᴴA x*), a sparse product as well
        for (long i = 0; i < rows; ++i) targets[i].spread_to(work.x + i * N, N);
        multiply_packed(targets, work.x, N, rows, layers.dense, layers.packed, N, numbers, work.products, room);
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < N; ++j)
                work.seen[i * N + j] = Real(-1) * product_at<Number>(work.products + i * room, apart, j);
    }

    // -- forward pass, and loss --------------------------------------------------------------------------------------

    for (long i = 0; i < rows; ++i) {
        lists[i] = {work.index + i * stride, work.value + i * stride, 0};
        record.ends[i * (record.depth + 1)] = 0;
        for (long j = 0; j < N; ++j) work.x[i * N + j] = {};
    }
    through_layers<ALONE>(layers, work.seen, N, rows, lists, work.products, room, work.x, work.choice, record);
    for (long i = 0; i < rows; ++i) {  // x becomes δ
        Number* __restrict__ const x = work.x + i * N;
        Real* __restrict__ const parts = (Real*)x;
        const Real weight = weights[i / L];
        for (long e = 0; e < targets[i].length; ++e) {
            Number& entry = x[targets[i].index[e]];
            entry = entry - targets[i].value[e];
        }
        *sums += 0.5 * total(numbers, [=](long j) { return double(parts[j]) * double(weight * parts[j]); });
        for (long j = 0; j < numbers; ++j) parts[j] *= weight;
    }

    // -- backward pass: δ becomes d_z, which is sparse ---------------------------------------------------------------

    for (long t = layers.depth - 1; t >= 0; --t) {
        const Real alpha = layers.step_size[t];
        for (long i = 0; i < rows; i += L) go_back<ALONE>(layers, record, t, i, work, lists, sums);
        if (t == 0) break;  // x_0 = 0 depends on nothing
        for (long i = 0; i < rows; ++i) lists[i].spread_to(work.x + i * N, N);
        multiply_packed(lists, work.x, N, rows, layers.dense, backward, N, numbers, work.products, room);
        for (long i = 0; i < rows; ++i) {  // ∂L/∂x = d_z − α AᴴW d_z, where the layer before needs it
            const unsigned* const index = record.index + i * record.room + record.begin(i, t - 1);
            for (long e = 0; e < record.count(i, t - 1); ++e) {
                Number& entry = work.x[i * N + index[e]];
                entry = entry + alpha * product_at<Number>(work.products + i * room, apart, index[e]);
            }
        }
    }
}
