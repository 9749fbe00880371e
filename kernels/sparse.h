// Products with sparse vectors, which read only those rows of a matrix that belong to a non-zero entry, as in list.cuh.
#pragma once
#include "entry.cuh"

// Entries of a vector, in the order of their indices.
template <class Real> struct List {
    unsigned* index;
    Real* value;
    long length;

    // Takes the entries whose key exceeds `low`: with 0, those that are not zero.
    __forceinline__ void gather_from(const Real* vector, long N, typename KeyOf<Real>::type low = 0)
    {
        long j = 0;
        length = 0;
#ifdef SQUEEZED
        if constexpr (sizeof(Real) == sizeof(float))
            for (; j + SQUEEZED <= N; j += SQUEEZED)
                length += squeeze(vector + j, low, j, value + length, index + length);
#endif
        for (; j < N; ++j) {  // without a branch, which would often be predicted wrongly
            index[length] = j;
            value[length] = vector[j];
            length += key_of(vector[j]) > low;
        }
    }
};

// Part of a row of the product: the sum of value[i] · (row index[i] of the matrix), over the columns of COUNT vectors,
// which stay in registers. Rows are `stride` entries apart. The last vector begins `back` columns earlier.
template <int COUNT, class Real>
__forceinline__ void sum_rows(const List<Real>& list, const Real* matrix, long stride, long back, Real* sums)
{
    const Real* const last = matrix - back;
    Vector<Real> sum[COUNT] = {};
    for (long i = 0; i < list.length; ++i) {
        const long row = list.index[i] * stride;
        const Vector<Real> value = list.value[i] - Vector<Real>{};  // in every lane
        for (int c = 0; c < COUNT; ++c)
            sum[c] = multiply_add(value, read((c + 1 < COUNT ? matrix : last) + row + c * LANES<Real>), sum[c]);
    }
    for (int c = 0; c < COUNT; ++c) write(sums + c * LANES<Real> - (c + 1 < COUNT ? 0 : back), sum[c]);
}

// The same for `count` vectors, from 1 to COUNT.
template <int COUNT, class Real>
__forceinline__ void sum_rows_of(
    long count, const List<Real>& list, const Real* matrix, long stride, long back, Real* sums)
{
    if constexpr (COUNT > 1)
        if (count < COUNT) return sum_rows_of<COUNT - 1>(count, list, matrix, stride, back, sums);
    sum_rows<COUNT>(list, matrix, stride, back, sums);
}

// How columns are divided: into panels of at most REGISTERS vectors, as equal as possible. The rows of a panel stay in
// the cache while all samples of a shard use them.
template <class Real> struct Panels {
    long columns, vectors, count;

    explicit Panels(long columns)
        : columns(columns), vectors((columns + LANES<Real> - 1) / LANES<Real>), count((vectors + REGISTERS - 1) / REGISTERS)
    {
    }

    long begin(long panel) const { return panel * vectors / count; }  // in vectors
};

// The products (rows, columns) of sparse vectors and a matrix.
template <class Real>
__forceinline__ void multiply(const List<Real>* lists, long rows, const Real* matrix, long columns, Real* products)
{
    const Panels<Real> panels(columns);
    const long beyond = panels.vectors * LANES<Real> - columns;  // the last vector begins earlier by this
    for (long panel = 0; panel < panels.count; ++panel) {
        const long begin = panels.begin(panel), end = panels.begin(panel + 1), j = begin * LANES<Real>;
        const long back = end == panels.vectors ? beyond : 0;
        for (long row = 0; row < rows; ++row) {
            Real* const sums = products + row * columns + j;
            if (columns >= LANES<Real>)
                sum_rows_of<REGISTERS>(end - begin, lists[row], matrix + j, columns, back, sums);
            else
                for (long c = 0; c < columns; ++c) {
                    Real sum = 0;
                    for (long i = 0; i < lists[row].length; ++i)
                        sum = multiply_add(lists[row].value[i], matrix[lists[row].index[i] * columns + c], sum);
                    sums[c] = sum;
                }
        }
    }
}

// The product of a (rows, inner), which is sparse, and b (inner, columns). SHARD rows at a time use the room, which has
// `inner` entries for each of them.
template <class Real>
__forceinline__ void multiply_rows(
    const Real* a, const Real* b, long rows, long inner, long columns, unsigned* index, Real* value, Real* product)
{
    List<Real> lists[SHARD];
    for (; rows > 0; rows -= SHARD, a += SHARD * inner, product += SHARD * columns) {
        const long shard = rows < SHARD ? rows : SHARD;
        for (long i = 0; i < shard; ++i) {
            lists[i] = {index + i * inner, value + i * inner, 0};
            lists[i].gather_from(a + i * inner, inner);
        }
        multiply(lists, shard, b, columns, product);
    }
}

// -- a matrix laid out for many products -----------------------------------------------------------------------------

// Panel by panel, with rows padded by zeros to whole vectors, so that what is read together lies together.
template <class Real> __forceinline__ void pack(const Real* matrix, long rows, long columns, Real* packed)
{
    const Panels<Real> panels(columns);
    for (long panel = 0; panel < panels.count; ++panel)
        for (long row = 0; row < rows; ++row)
            for (long j = panels.begin(panel) * LANES<Real>; j < panels.begin(panel + 1) * LANES<Real>; ++j)
                *packed++ = j < columns ? matrix[row * columns + j] : Real(0);
}

// The products of sparse vectors and a packed matrix, `stride` entries apart, with as many columns as fill whole vectors.
template <class Real>
__forceinline__ void multiply_packed(
    const List<Real>* lists, long rows, const Real* packed, long matrix_rows, long columns, Real* products, long stride)
{
    const Panels<Real> panels(columns);
    for (long panel = 0; panel < panels.count; ++panel) {
        const long begin = panels.begin(panel) * LANES<Real>, width = panels.begin(panel + 1) * LANES<Real> - begin;
        for (long row = 0; row < rows; ++row)
            sum_rows_of<REGISTERS>(
                width / LANES<Real>, lists[row], packed + begin * matrix_rows, width, 0, products + row * stride + begin);
    }
}
