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

    // Writes the vector of N entries, of which those that are not in the list are `others`.
    __forceinline__ void spread_to(Real* vector, long N, Real others = 0) const
    {
        for (long j = 0; j < N; ++j) vector[j] = others;
        for (long i = 0; i < length; ++i) vector[index[i]] = value[i];
    }
};

// Part of a row of the product: the sum of value[i] · (row index[i] of the matrix), over the columns of COUNT vectors,
// which stay in registers. Rows are `stride` entries apart. The last vector begins `back` columns earlier. With `more`,
// the sums go on from what they were.
template <int COUNT, class Real>
__forceinline__ void sum_rows(const List<Real>& list, const Real* matrix, long stride, long back, Real* sums, bool more)
{
    const Real* const last = matrix - back;
    Vector<Real> sum[COUNT] = {};
    if (more)
        for (int c = 0; c < COUNT; ++c) sum[c] = read(sums + c * LANES<Real> - (c + 1 < COUNT ? 0 : back));
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
    long count, const List<Real>& list, const Real* matrix, long stride, long back, Real* sums, bool more = false)
{
    if constexpr (COUNT > 1)
        if (count < COUNT) return sum_rows_of<COUNT - 1>(count, list, matrix, stride, back, sums, more);
    sum_rows<COUNT>(list, matrix, stride, back, sums, more);
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

// The products (rows, columns) of sparse vectors and a matrix. With `more`, they are added.
template <class Real>
__attribute__((noinline)) void multiply(
    const List<Real>* lists, long rows, const Real* matrix, long columns, Real* products, bool more = false)
{
    const Panels<Real> panels(columns);
    const long beyond = panels.vectors * LANES<Real> - columns;  // the last vector begins earlier by this
    for (long panel = 0; panel < panels.count; ++panel) {
        const long begin = panels.begin(panel), end = panels.begin(panel + 1), j = begin * LANES<Real>;
        const long back = end == panels.vectors ? beyond : 0;
        for (long row = 0; row < rows; ++row) {
            Real* const sums = products + row * columns + j;
            if (columns >= LANES<Real>)
                sum_rows_of<REGISTERS>(end - begin, lists[row], matrix + j, columns, back, sums, more);
            else
                for (long c = 0; c < columns; ++c) {
                    Real sum = more ? sums[c] : 0;
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

// Rows that are not sparse: adds to COUNT sums of ROWS rows the products of `inner` entries with as many rows of the
// matrix, which are read once for all. In the order of `sum_rows`, so that the bits are the same.
template <int ROWS, int COUNT, class Real>
__forceinline__ void sum_rows_together(
    const Real* rows, long distance, const Real* matrix, long stride, long inner, bool begin, Real* sums, long room)
{
    Vector<Real> sum[ROWS][COUNT] = {};
    if (!begin)
        for (int row = 0; row < ROWS; ++row)
            for (int c = 0; c < COUNT; ++c) sum[row][c] = read(sums + row * room + c * LANES<Real>);
    for (long i = 0; i < inner; ++i) {
        Vector<Real> entries[COUNT];
        for (int c = 0; c < COUNT; ++c) entries[c] = read(matrix + i * stride + c * LANES<Real>);
        for (int row = 0; row < ROWS; ++row) {
            const Vector<Real> value = rows[row * distance + i] - Vector<Real>{};
            for (int c = 0; c < COUNT; ++c) sum[row][c] = multiply_add(value, entries[c], sum[row][c]);
        }
    }
    for (int row = 0; row < ROWS; ++row)
        for (int c = 0; c < COUNT; ++c) write(sums + row * room + c * LANES<Real>, sum[row][c]);
}

// The same for a panel of `vectors` vectors, part by part: a part of the matrix stays in the first-level cache while all
// rows use it.
template <class Real>
__forceinline__ void multiply_panel(
    const Real* rows, long count, long distance, const Real* panel, long inner, long vectors, Real* products, long room)
{
    const long ROWS = 4, COUNT = REGISTERS / ROWS, INNER = 128;
    const long width = vectors * LANES<Real>;
    for (long first = 0; first < inner; first += INNER) {
        const long some = inner - first < INNER ? inner - first : INNER;
        for (long c = 0; c < vectors;) {
            const long wide = vectors - c < COUNT ? 1 : COUNT;
            for (long row = 0; row < count;) {
                const long high = count - row < ROWS ? 1 : ROWS;
                const Real* const of = rows + row * distance + first;
                const Real* const matrix = panel + first * width + c * LANES<Real>;
                Real* const sums = products + row * room + c * LANES<Real>;
                auto sum = [&](auto run) { run(of, distance, matrix, width, some, first == 0, sums, room); };
                if (high > 1)
                    wide > 1 ? sum([](auto... all) { sum_rows_together<ROWS, COUNT>(all...); })
                             : sum([](auto... all) { sum_rows_together<ROWS, 1>(all...); });
                else
                    wide > 1 ? sum([](auto... all) { sum_rows_together<1, COUNT>(all...); })
                             : sum([](auto... all) { sum_rows_together<1, 1>(all...); });
                row += high;
            }
            c += wide;
        }
    }
}

// The products of vectors and a packed matrix, `room` entries apart, with as many columns as fill whole vectors. The
// vectors are given as lists, and as rows `distance` apart, which are used if more than the share `dense` of the entries
// are not zero. This decides how long it takes, and not a bit of the result.
template <class Real>
__attribute__((noinline)) void multiply_packed(
    const List<Real>* lists, const Real* rows, long distance, long count, double dense, const Real* packed, long inner,
    long columns, Real* products, long room)
{
    const Panels<Real> panels(columns);
    long entries = 0;
    for (long row = 0; row < count; ++row) entries += lists[row].length;
    const bool are_dense = entries > dense * count * inner;
    // So many rows of the matrix at a time that a vector has about 20 entries among them. Fewer rows stay in a nearer
    // cache while all vectors use them, but then sums are read and written more often.
    const long wanted = entries > 0 ? 20 * count * inner / entries : inner;
    const long part = wanted < 64 ? 64 : wanted < 1024 ? wanted : 1024;
    for (long panel = 0; panel < panels.count; ++panel) {
        const long begin = panels.begin(panel) * LANES<Real>, width = panels.begin(panel + 1) * LANES<Real> - begin;
        const long vectors = width / LANES<Real>;
        const Real* const matrix = packed + begin * inner;
        if (are_dense) {
            multiply_panel(rows, count, distance, matrix, inner, vectors, products + begin, room);
            continue;
        }
        long done[SHARD] = {};
        for (long first = 0; first < inner; first += part) {
            const unsigned end = first + part;
            for (long row = 0; row < count; ++row) {
                const List<Real>& list = lists[row];
                long stop = done[row];
                while (stop < list.length && list.index[stop] < end) ++stop;
                const List<Real> those = {list.index + done[row], list.value + done[row], stop - done[row]};
                if (first == 0 || those.length > 0)
                    sum_rows_of<REGISTERS>(vectors, those, matrix, width, 0, products + row * room + begin, first > 0);
                done[row] = stop;
            }
        }
    }
}
