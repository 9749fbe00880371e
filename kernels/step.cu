// Kernel 4: a training step of ALISTA, except Adam, in one launch: signals, measurements, T layers forward, loss, T
// layers backward, gradients. One block takes each signal from its first random word to its gradients; the last block
// to finish adds up the gradients of all.
//
// A product with a sparse vector gathers rows of a matrix that stays in the L2 cache. Because WᵀA is formed beforehand
// (see networks/couplings.py), all products are of this kind, even the one with y, which is dense. The kernel is correct
// for any density, and fast while the iterates are sparse or the batch is small.
#include "list.cuh"
#include "philox.cuh"
#include "share.cuh"

KERNEL __launch_bounds__(256, sizeof(real) == 4 ? 3 : 2) alista_step(
    // The problem: Aᵀ (N, M); W (M, N); (2, N) 53-bit limits that decide the supports of ordinary and of hard signals;
    // (N + 1) how much each non-zero entry adds to log(g / f), followed by log(g / f) of a signal without any; the law
    // of magnitudes, and whether entries are their absolute values; 10^(−SNR/20); and the norm to which measurements
    // are scaled, or 0.
    const real* __restrict__ A_transposed, const real* __restrict__ W, const Word* __restrict__ limits,
    const double* __restrict__ log_ratio, int bernoulli, real a, real b, Word q_limit, int positive, real noise, real unit,
    int M, int N,
    // How many numbers the block's teams of list.cuh may have to sum.
    int team_sums,
    // The network: −AᵀW and its transpose (N, N), the parameters, and how many entries may pass in each layer.
    const real* __restrict__ forward, const real* __restrict__ backward, const double* __restrict__ step_size,
    const double* __restrict__ threshold, const int* __restrict__ support,
    // Work arrays: (batch, depth, N) each, and (batch, 1 + 2·depth) for the sums.
    real* __restrict__ z_kept, real* __restrict__ u_kept, signed char* __restrict__ code_kept, double* __restrict__ sums,
    int layers, int depth, real window, int one_sided,
    // The batch: `share` is the nominal share of hard signals, and `hard` the actual share in this batch; see Signals.
    Word seed, Word stream, Word step, double share, double hard, double weight_power,
    // A counter that is zero before and after, and the results: the loss, and the gradients, (layers,) each.
    unsigned* __restrict__ arrived, double* __restrict__ loss, double* __restrict__ d_step_size,
    double* __restrict__ d_threshold)
{
    SHARED_MEMORY(shared);
    __shared__ unsigned long long slots[64];
    __shared__ unsigned earlier;
    __shared__ Key cut;
    Block block(slots);

    // In the arrays of N entries, each thread reads and writes only its own entries, except where a warp selects.
    real* const target = reinterpret_cast<real*>(shared) + team_sums;
    real* const seen = target + N;
    real* const x = seen + N;
    real* const y = x + N;
    List list;
    const int longest = max(M, N);
    list.value = y + M;
    list.index = reinterpret_cast<unsigned*>(list.value + longest + AT_ONCE);
    list.counts = reinterpret_cast<int*>(list.index + longest + AT_ONCE);
    list.of_teams = reinterpret_cast<real*>(shared);

    const int row = blockIdx.x;
    const Place place = place_of(row, share);
    const bool is_hard = place.is_hard;
    const Word number = place.number, own_stream = is_hard ? stream + HARD_STREAM : stream;

    // -- the signal, its weight and its measurements ------------------------------------------------------------------

    const Law<real> law = {bernoulli, a, b, q_limit};
    double log_density = 0;
    for (int j = threadIdx.x; j < N; j += blockDim.x) {
        const Word e = number * N + j;
        const real entry =
            sparse_entry(philox(Source{seed, own_stream, step, CODES}, e / 2), e, limits[is_hard ? N + j : j], law);
        target[j] = positive ? fabs(entry) : entry;
        if (target[j] != 0) log_density += log_ratio[j];
    }
    real weight = 1;
    if (hard > 0) {
        log_density = block.over<Sum>(log_density) + log_ratio[N];
        weight = real(pow(1 / (1 - hard + hard * exp(log_density)), weight_power));
    }
    list.gather_from(target, N);
    double sum = 0;
    list.multiply(A_transposed, M, [&](int m, real entry) {
        y[m] = entry;
        sum += entry;
    });
    if (noise > 0) {
        const double mean = block.over<Sum>(sum) / M;
        double squares = 0;
        for (int m = threadIdx.x; m < M; m += blockDim.x) squares += (y[m] - mean) * (y[m] - mean);
        const real deviation = real(sqrt(block.over<Sum>(squares) / M)) * noise;
        for (int m = threadIdx.x; m < M; m += blockDim.x) {
            const Word e = number * M + m;
            y[m] += deviation * normal_entry<real>(philox(Source{seed, own_stream, step, NOISE}, e / 4), e);
        }
    }
    if (unit > 0) {  // the network works on y / s, and ‖s x − x*‖² = s² ‖x − x*/s‖²
        double squares = 0;
        for (int m = threadIdx.x; m < M; m += blockDim.x) squares += double(y[m]) * double(y[m]);
        const real factor = real(sqrt(block.over<Sum>(squares))) / unit;
        if (factor > 0) {
            for (int m = threadIdx.x; m < M; m += blockDim.x) y[m] /= factor;
            for (int j = threadIdx.x; j < N; j += blockDim.x) target[j] /= factor;
            weight *= factor * factor;
        }
    }
    list.gather_from(y, M);
    list.multiply(W, N, [&](int j, real entry) {
        seen[j] = entry;
        x[j] = 0;
    });

    // -- forward pass -------------------------------------------------------------------------------------------------

    const long long work = (long long)row * depth * N;
    for (int t = 0; t < depth; ++t) {
        const long long layer_start = work + (long long)t * N;
        const real alpha = real(step_size[t]), theta = real(threshold[t]);
        auto take = [&](int j, real product) {
            const real u = product + seen[j];
            x[j] = sided(x[j] + alpha * u, one_sided);  // z
            u_kept[layer_start + j] = u;
            z_kept[layer_start + j] = x[j];
        };
        if (t > 0) {
            list.gather_from(x, N);
            list.multiply(forward, N, take);
        } else {
            for (int j = threadIdx.x; j < N; j += blockDim.x) take(j, 0);
        }
        __syncthreads();
        if (warp() == 0) {  // alone, because the rounds of a bisection are short, and barriers between them are not
            Warp team;
            const Key found = cutoff(team, OfWarp{x, N}, support[t], lowest_cutoff(theta, window));
            if (lane() == 0) cut = found;
        }
        __syncthreads();
        for (int j = threadIdx.x; j < N; j += blockDim.x) {
            int code;
            x[j] = shrink(x[j], theta, cut, window, code);
            code_kept[layer_start + j] = code;
        }
    }

    // -- loss and backward pass: x becomes δ, then d_z ----------------------------------------------------------------

    const int columns = 1 + 2 * depth;
    double error = 0;
    for (int j = threadIdx.x; j < N; j += blockDim.x) {
        const real difference = x[j] - target[j];
        x[j] = weight * difference;
        error += double(difference) * double(x[j]);
    }
    error = block.over<Sum>(error);
    if (threadIdx.x == 0) sums[(long long)row * columns] = 0.5 * error;
    for (int t = depth - 1; t >= 0; --t) {
        const long long layer_start = work + (long long)t * N;
        const real alpha = real(step_size[t]), theta = real(threshold[t]);
        double d_alpha = 0, d_theta = 0;
        for (int j = threadIdx.x; j < N; j += blockDim.x) {
            x[j] = shrink_backward(x[j], code_kept[layer_start + j], z_kept[layer_start + j], theta, window, d_theta);
            d_alpha += double(x[j]) * double(u_kept[layer_start + j]);
        }
        d_alpha = block.over<Sum>(d_alpha);
        d_theta = block.over<Sum>(d_theta);
        if (threadIdx.x == 0) {
            sums[(long long)row * columns + 1 + t] = d_alpha;
            sums[(long long)row * columns + 1 + depth + t] = d_theta;
        }
        if (t == 0) break;  // x_0 = 0 depends on nothing
        list.gather_from(x, N);
        list.multiply(backward, N, [&](int j, real entry) { x[j] += alpha * entry; });  // ∂L/∂x = d_z − α d_z WᵀA
    }

    // -- the last block to finish adds up, always in the same order ---------------------------------------------------

    __threadfence();
    if (threadIdx.x == 0) earlier = atomicAdd(arrived, 1u);
    __syncthreads();
    if (earlier != gridDim.x - 1) return;
    __threadfence();
    for (int column = threadIdx.x; column < 1 + 2 * layers; column += blockDim.x) {
        const bool is_threshold = column > layers;
        const int t = column - 1 - (is_threshold ? layers : 0);
        double total = 0;
        if (t < depth) {
            const int of_column = column == 0 ? 0 : 1 + t + (is_threshold ? depth : 0);
#pragma unroll 8
            for (int other = 0; other < gridDim.x; ++other) total += sums[(long long)other * columns + of_column];
        }
        *(column == 0 ? loss : is_threshold ? d_threshold + t : d_step_size + t) = total;
    }
    if (threadIdx.x == 0) atomicExch(arrived, 0u);  // for the next launch
}
