// Products in which every row has the same bits as if it were multiplied alone. See ReferenceOps.matmul_by_rows.
#include "list.cuh"

// How many entries of a row a block takes at a time.
const int CHUNK = 1024;

// The product of a (rows, N) and b (N, M). One block per row.
template <class Number>
__device__ __forceinline__ void multiply_row(
    List<Number> list, const Number* __restrict__ a, const Number* __restrict__ b, int N, int M,
    Number* __restrict__ product)
{
    a += (long long)blockIdx.x * N;
    product += (long long)blockIdx.x * M;
    for (int first = 0; first < N; first += CHUNK) {
        list.gather_from(a + first, min(CHUNK, N - first));
        for (int m = threadIdx.x; m < M; m += blockDim.x) {
            const Number sum = list.times(b + (long long)first * M, M, m);
            product[m] = first ? product[m] + sum : sum;
        }
    }
}

#define MATMUL_BY_ROWS(NAME, NUMBER)                                                                                  \
    KERNEL __launch_bounds__(256, 1) NAME(const real* a, const real* b, int N, int M, real* product)                  \
    {                                                                                                                 \
        __shared__ __align__(16) NUMBER values[CHUNK + AT_ONCE];                                                      \
        __shared__ unsigned indices[CHUNK + AT_ONCE];                                                                 \
        __shared__ int counts[CHUNK / 32];                                                                            \
        multiply_row<NUMBER>(                                                                                         \
            {indices, values, counts, nullptr, 0}, reinterpret_cast<const NUMBER*>(a),                                \
            reinterpret_cast<const NUMBER*>(b), N, M, reinterpret_cast<NUMBER*>(product));                            \
    }

MATMUL_BY_ROWS(matmul_by_rows, real)
MATMUL_BY_ROWS(matmul_by_rows_complex, Complex<real>)
