// Products in which every row has the same bits as if it were multiplied alone. See ReferenceOps.matmul_by_rows.
#include "list.cuh"

// The product of a (rows, N) and b (N, M). One block per row, which it takes CHUNK entries at a time.
KERNEL __launch_bounds__(256, 1) matmul_by_rows(
    const real* __restrict__ a, const real* __restrict__ b, int N, int M, real* __restrict__ product)
{
    const int CHUNK = 1024;
    __shared__ real values[CHUNK + AT_ONCE];
    __shared__ unsigned indices[CHUNK + AT_ONCE];
    __shared__ int counts[CHUNK / 32];
    List<real> list = {indices, values, counts, nullptr, 0};
    a += (long long)blockIdx.x * N;
    product += (long long)blockIdx.x * M;
    for (int first = 0; first < N; first += CHUNK) {
        list.gather_from(a + first, min(CHUNK, N - first));
        for (int m = threadIdx.x; m < M; m += blockDim.x) {
            const real sum = list.times(b + (long long)first * M, M, m);
            product[m] = first ? product[m] + sum : sum;
        }
    }
}
