// Kernel 4: a training step of ALISTA, except Adam, in one launch: signals, measurements, T layers forward, loss, T
// layers backward, gradients. One block takes each signal from its first random word to its gradients; the last block
// to finish adds up the gradients of all.
//
// A product with a sparse vector gathers rows of a matrix that stays in the L2 cache. Because WᵀA is formed beforehand
// (see networks/couplings.py), all products are of this kind, even the one with y, which is dense. The kernel is correct
// for any density, and fast while the iterates are sparse or the batch is small.
//
// It is a template over the kind of entry: see joint.cuh. The rows of a signal with several snapshots are multiplied one
// after the other. Complex numbers, and snapshots, take as many times more shared memory. Where a block has not enough, as
// with complex128 numbers or with three complex64 snapshots of 500 unknowns, the step goes layer by layer.
#pragma once
#include "joint.cuh"
#include "list.cuh"
#include "philox.cuh"
#include "share.cuh"

// Calls use(place) for a thread's own numbers of so many rows and columns.
template <class Use> __device__ __forceinline__ void each_own(int rows, int columns, Use use)
{
    for (int row = 0; row < rows; ++row)
        for (int j = threadIdx.x; j < columns; j += blockDim.x) use(row * columns + j);
}

// What the threads of a block share, besides the launch's dynamic shared memory. Kernels declare it: the shim of the tests
// does not find the variables of a template.
struct Common {
    unsigned long long slots[64];
    unsigned earlier;
    Key cut;
};

template <class Number, bool ALONE>
__device__ __forceinline__ void take_step(
    unsigned char* shared, Common& common,
    // The problem: Aᵀ (N, M); W̄ (M, N); (2, N) 53-bit limits that decide the supports of ordinary and of hard signals;
    // (N/G + 1) how much each non-zero entry adds to log(g / f), followed by log(g / f) of a signal without any; the law
    // of magnitudes, and whether entries are their absolute values; 10^(−SNR/20); and the norm to which measurements
    // are scaled, or 0. N unknowns of L snapshots are in groups of G.
    const Number* __restrict__ A_transposed, const Number* __restrict__ W, const Word* __restrict__ limits,
    const double* __restrict__ log_ratio, int bernoulli, real a, real b, Word q_limit, int positive, real noise,
    real unit, int M, int N, int snapshots, int group,
    // How many numbers the block's teams of list.cuh may have to sum.
    int team_sums,
    // The network: −AᵀW̄ and its conjugate transpose (N, N), the parameters, and how many entries may pass in each layer.
    const Number* __restrict__ forward, const Number* __restrict__ backward, const double* __restrict__ step_size,
    const double* __restrict__ threshold, const int* __restrict__ support,
    // Work arrays: (batch, depth, L, N) twice, (batch, depth, N/G) for codes, and (batch, 1 + 2·depth) for the sums.
    Number* __restrict__ z_kept, Number* __restrict__ u_kept, signed char* __restrict__ code_kept,
    double* __restrict__ sums, int layers, int depth, real window, int one_sided,
    // The batch, of which the blocks take rows from `first_row` on: `share` is the nominal share of hard signals, and
    // `hard` the actual share in this batch; see Signals.
    Word seed, Word stream, Word step, int first_row, double share, double hard, double weight_power,
    // A counter that is zero before and after, and the results: the loss, and the gradients, (layers,) each.
    unsigned* __restrict__ arrived, double* __restrict__ loss, double* __restrict__ d_step_size,
    double* __restrict__ d_threshold)
{
    Block block(common.slots);
    Key& cut = common.cut;
    unsigned& earlier = common.earlier;
    const int L = ALONE ? 1 : snapshots, G = ALONE ? 1 : group, E = N / G, longest = max(M, N);
    const Entries entries = {L, G, E};

    // In the arrays of N numbers for each snapshot, each thread reads and writes only its own: of each row, every
    // blockDim.x-th. Where it is joint entries that threads share out, all wait for one another before and after.
    Number* const target = reinterpret_cast<Number*>(shared) + team_sums;
    Number* const seen = target + L * N;
    Number* const x = seen + L * N;
    Number* const y = x + L * N;
    List<Number> list;
    list.value = y + L * M;
    real* const magnitude = reinterpret_cast<real*>(list.value + longest + AT_ONCE);  // of joint entries
    list.index = reinterpret_cast<unsigned*>(magnitude + (ALONE ? 0 : E));
    list.counts = reinterpret_cast<int*>(list.index + longest + AT_ONCE);
    list.of_teams = reinterpret_cast<Number*>(shared);
    auto wait_for_entries = [] {
        if (!ALONE) __syncthreads();
    };

    const int row = blockIdx.x;
    const Place place = place_of(first_row + row, share);
    const bool is_hard = place.is_hard;
    const Word number = place.number, own_stream = is_hard ? stream + HARD_STREAM : stream;

    // -- the signal, its weight and its measurements ------------------------------------------------------------------

    const Law<real> law = {bernoulli, a, b, q_limit};
    const Source codes = {seed, own_stream, step, CODES};
    double log_density = 0;
    if constexpr (ALONE) {
        for (int j = threadIdx.x; j < N; j += blockDim.x) {
            const Word e = number * N + j;
            const real entry = sparse_entry(philox(codes, e / 2), e, limits[is_hard ? N + j : j], law);
            target[j] = positive ? fabs(entry) : entry;
            if (target[j] != 0) log_density += log_ratio[j];
        }
    } else {
        for (int e = threadIdx.x; e < E; e += blockDim.x) {
            const Word first = number * L * N, decides = first + e * G;  // the first number decides for all
            const Words words = philox(codes, decides / 2);
            const Word support = decides % 2 ? words.words[2] : words.words[0];
            const bool present = is_present(support, limits[is_hard ? N + e * G : e * G]);
            bool nonzero = false;
            entries.each<ALONE>(e, [&](long long at) {
                Number entry = {};
                if (present) {
                    const Words own = philox(codes, (first + at) / 2);
                    entry = law.template number<Number>((first + at) % 2 ? own.words[3] : own.words[1]);
                }
                target[at] = entry;
                nonzero = nonzero || is_nonzero(entry);
            });
            if (nonzero) log_density += log_ratio[e];
        }
    }
    real weight = 1;
    if (hard > 0) {
        log_density = block.over<Sum>(log_density) + log_ratio[E];
        weight = real(pow(1 / (1 - hard + hard * exp(log_density)), weight_power));
    }
    wait_for_entries();
    double sum[PARTS<Number>] = {};
    for (int s = 0; s < L; ++s) {
        list.gather_from(target + s * N, N);
        list.multiply(A_transposed, M, [&](int m, Number entry) {
            y[s * M + m] = entry;
            for (int part = 0; part < PARTS<Number>; ++part) sum[part] += part_of(entry, part);
        });
    }
    if (noise > 0) {
        double squares = 0;
        for (int part = 0; part < PARTS<Number>; ++part) {
            const double mean = block.over<Sum>(sum[part]) / (L * M);
            each_own(L, M, [&](int m) { squares += (part_of(y[m], part) - mean) * (part_of(y[m], part) - mean); });
        }
        const real deviation = real(sqrt(block.over<Sum>(squares) / (L * M))) * noise;
        each_own(L, M, [&](int m) {
            const Word e = number * L * M + m;
            y[m] = y[m] + deviation * normal_entry<Number>(philox(Source{seed, own_stream, step, NOISE}, e / 4), e);
        });
    }
    if (unit > 0) {  // the network works on y / s, and ‖s x − x*‖² = s² ‖x − x*/s‖²
        double squares = 0;
        each_own(L, M, [&](int m) { squares += in_double(y[m], y[m]); });
        const real factor = real(sqrt(block.over<Sum>(squares))) / unit;
        if (factor > 0) {
            each_own(L, M, [&](int m) { y[m] = quotient(y[m], factor); });
            each_own(L, N, [&](int j) { target[j] = quotient(target[j], factor); });
            weight *= factor * factor;
        }
    }
    for (int s = 0; s < L; ++s) {
        list.gather_from(y + s * M, M);
        list.multiply(W, N, [&](int j, Number entry) {
            seen[s * N + j] = entry;
            x[s * N + j] = {};
        });
    }

    // -- forward pass -------------------------------------------------------------------------------------------------

    for (int t = 0; t < depth; ++t) {
        const long long layer = (long long)row * depth + t;
        Number *const z_layer = z_kept + layer * (L * N), *const u_layer = u_kept + layer * (L * N);
        const real alpha = real(step_size[t]), theta = real(threshold[t]);
        auto take = [&](int at, Number product) {
            const Number u = product + seen[at];
            Number z = x[at] + alpha * u;
            if constexpr (ALONE) z = sided(z, one_sided);
            x[at] = z;
            write(u_layer + at, u);
            write(z_layer + at, z);
        };
        if (t > 0) {
            for (int s = 0; s < L; ++s) {
                list.gather_from(x + s * N, N);
                list.multiply(forward, N, [&](int j, Number product) { take(s * N + j, product); });
            }
        } else {
            each_own(L, N, [&](int at) { take(at, Number{}); });
        }
        __syncthreads();
        const real* compared = magnitude;
        if constexpr (ALONE) {
            compared = x;
        } else {
            for (int e = threadIdx.x; e < E; e += blockDim.x) {
                real square = 0;
                entries.each<ALONE>(e, [&](long long at) { square += inner(x[at], x[at]); });
                magnitude[e] = sqrt(square);
            }
            __syncthreads();
        }
        if (warp() == 0) {  // alone, because the rounds of a bisection are short, and barriers between them are not
            Warp team;
            const Key found = cutoff(team, OfWarp{compared, E}, support[t], lowest_cutoff(theta, window));
            if (lane() == 0) cut = found;
        }
        __syncthreads();
        for (int e = threadIdx.x; e < E; e += blockDim.x) {
            int code;
            if constexpr (ALONE) {
                x[e] = shrink(x[e], theta, cut, window, code);
            } else {
                const real factor = shrink_joint(magnitude[e], theta, cut, window, code);
                entries.each<ALONE>(e, [&](long long at) { x[at] = factor * x[at]; });
            }
            code_kept[layer * E + e] = code;
        }
        wait_for_entries();
    }

    // -- loss and backward pass: x becomes δ, then d_z ----------------------------------------------------------------

    const int columns = 1 + 2 * depth;
    double error = 0;
    each_own(L, N, [&](int at) {
        const Number difference = x[at] - target[at];
        x[at] = weight * difference;
        error += in_double(difference, x[at]);
    });
    error = block.over<Sum>(error);
    if (threadIdx.x == 0) sums[(long long)row * columns] = 0.5 * error;
    for (int t = depth - 1; t >= 0; --t) {
        const long long layer = (long long)row * depth + t;
        const Number *const z_layer = z_kept + layer * (L * N), *const u_layer = u_kept + layer * (L * N);
        const real alpha = real(step_size[t]), theta = real(threshold[t]);
        double d_alpha = 0, d_theta = 0;
        for (int e = threadIdx.x; e < E; e += blockDim.x) {
            const int code = code_kept[layer * E + e];
            if constexpr (ALONE) {
                x[e] = shrink_backward(x[e], code, z_layer[e], theta, window, d_theta);
                d_alpha += double(x[e]) * double(u_layer[e]);
            } else {
                d_theta += double(entry_backward<ALONE>(
                    entries, e, code, theta, window, [&](long long at) { return number_at(z_layer + at); }, x, u_layer,
                    x, d_alpha));
            }
        }
        d_alpha = block.over<Sum>(d_alpha);
        d_theta = block.over<Sum>(d_theta);
        if (threadIdx.x == 0) {
            sums[(long long)row * columns + 1 + t] = d_alpha;
            sums[(long long)row * columns + 1 + depth + t] = d_theta;
        }
        if (t == 0) break;  // x_0 = 0 depends on nothing
        for (int s = 0; s < L; ++s) {
            Number* const of_row = x + s * N;
            list.gather_from(of_row, N);  // ∂L/∂x = d_z − α d_z WᵀA
            list.multiply(backward, N, [&](int j, Number entry) { of_row[j] = of_row[j] + alpha * entry; });
        }
        wait_for_entries();
    }

    // -- the last block to finish adds up, along a binary tree -----------------------------------------------------

    __threadfence();
    if (threadIdx.x == 0) earlier = atomicAdd(arrived, 1u);
    __syncthreads();
    if (earlier != gridDim.x - 1) return;
    __threadfence();
    const int blocks = gridDim.x;
    for (int width = 1; width < blocks; width *= 2) {  // the tree of cuista.ranks, in the place of the first row
        for (int i = threadIdx.x; i < (blocks + width - 1) / (2 * width) * columns; i += blockDim.x) {
            double* const sum = sums + (long long)(i / columns) * (2 * width * columns) + i % columns;
            *sum += sum[(long long)width * columns];
        }
        __syncthreads();
    }
    for (int column = threadIdx.x; column < 1 + 2 * layers; column += blockDim.x) {
        const bool is_threshold = column > layers;
        const int t = column - 1 - (is_threshold ? layers : 0);
        double total = 0;
        if (t < depth) {
            total = sums[column == 0 ? 0 : 1 + t + (is_threshold ? depth : 0)];
        }
        *(column == 0 ? loss : is_threshold ? d_threshold + t : d_step_size + t) = total;
    }
    if (threadIdx.x == 0) atomicExch(arrived, 0u);  // for the next launch
}

#define ALISTA_STEP(NAME, NUMBER, ALONE, BLOCKS)                                                                      \
    KERNEL __launch_bounds__(256, BLOCKS) NAME(                                                                       \
        const real* A_transposed, const real* W, const Word* limits, const double* log_ratio, int bernoulli,          \
        real a, real b, Word q_limit, int positive, real noise, real unit, int M, int N, int snapshots, int group,    \
        int team_sums, const real* forward, const real* backward, const double* step_size,                            \
        const double* threshold, const int* support, real* z_kept, real* u_kept, signed char* code_kept,              \
        double* sums, int layers, int depth, real window, int one_sided, Word seed, Word stream, Word step,           \
        int first_row, double share, double hard, double weight_power, unsigned* arrived, double* loss,               \
        double* d_step_size, double* d_threshold)                                                                     \
    {                                                                                                                 \
        SHARED_MEMORY(shared);                                                                                        \
        __shared__ Common common;                                                                                     \
        take_step<NUMBER, ALONE>(                                                                                     \
            shared, common, reinterpret_cast<const NUMBER*>(A_transposed), reinterpret_cast<const NUMBER*>(W),        \
            limits, log_ratio, bernoulli, a, b, q_limit, positive, noise, unit, M, N, snapshots, group,               \
            team_sums, reinterpret_cast<const NUMBER*>(forward), reinterpret_cast<const NUMBER*>(backward), step_size,\
            threshold, support, reinterpret_cast<NUMBER*>(z_kept), reinterpret_cast<NUMBER*>(u_kept), code_kept,      \
            sums, layers, depth, window, one_sided, seed, stream, step, first_row, share, hard, weight_power,         \
            arrived, loss, d_step_size, d_threshold);                                                                 \
    }
