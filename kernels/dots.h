// Products of which only some entries are wanted: inner products of rows. See ReferenceOps.matmul_where.
#pragma once

// Adds the second half of 2·HALF numbers to the first, and so on, until the first number is the sum of all.
template <long HALF, class Real> __forceinline__ void fold(Real* numbers)
{
    for (long i = 0; i < HALF; ++i) numbers[i] += numbers[i + HALF];
    if constexpr (HALF > 1) fold<HALF / 2>(numbers);
}

// What a vector's inner products need: the number of partial sums, which does not depend on the width of vectors, and how
// many products are computed together.
template <class Real> struct Dots {
    static const long SUMS = 64 / sizeof(Real), VECTORS = SUMS / LANES<Real>, TOGETHER = VECTORS > 2 ? 2 : 4;

    const Real* vector;
    long size;
    Real last[SUMS];  // the last SUMS entries, with zeros in place of those that full steps of SUMS have reached

    Dots(const Real* vector, long size) : vector(vector), size(size)
    {
        for (long j = 0; j < SUMS; ++j) last[j] = j < SUMS - size % SUMS || size < SUMS ? 0 : vector[size - SUMS + j];
    }

    // The inner products with COUNT rows.
    template <long COUNT> __forceinline__ void with(const Real* const* rows, Real* products) const
    {
        Vector<Real> sum[COUNT][VECTORS];
        for (long c = 0; c < COUNT; ++c)
            for (long v = 0; v < VECTORS; ++v) sum[c][v] = Vector<Real>{};
        auto add = [&](const Real* entries, long j) {
            for (long v = 0; v < VECTORS; ++v) {
                const Vector<Real> entry = read(entries + v * LANES<Real>);
                for (long c = 0; c < COUNT; ++c)
                    sum[c][v] = multiply_add(entry, read(rows[c] + j + v * LANES<Real>), sum[c][v]);
            }
        };
        for (long j = 0; j + SUMS <= size; j += SUMS) add(vector + j, j);
        if (size > SUMS && size % SUMS) add(last, size - SUMS);
        for (long c = 0; c < COUNT; ++c) {
            Real sums[SUMS];
            for (long v = 0; v < VECTORS; ++v) write(sums + v * LANES<Real>, sum[c][v]);
            fold<SUMS / 2>(sums);
            for (long j = 0; size < SUMS && j < size; ++j) sums[0] = multiply_add(vector[j], rows[c][j], sums[0]);
            products[c] = sums[0];
        }
    }
};

// The product (rows, columns) of a (rows, inner) and the transpose of b (columns, inner), in the entries where `where` is
// not 0; the others become 0. `index` is room for a list of columns.
template <class Real>
__forceinline__ void multiply_where(
    const Real* a, const Real* b, const signed char* where, long rows, long inner, long columns, unsigned* index,
    Real* product)
{
    const long TOGETHER = Dots<Real>::TOGETHER;
    for (; rows > 0; --rows, a += inner, where += columns, product += columns) {
        const Dots<Real> dots(a, inner);
        long wanted = 0;
        for (long j = 0; j < columns; ++j) {  // without a branch, which would often be predicted wrongly
            index[wanted] = j;
            wanted += where[j] != 0;
        }
        for (long j = 0; j < columns; ++j) product[j] = 0;
        long i = 0;
        for (; i + TOGETHER <= wanted; i += TOGETHER) {
            const Real* of[TOGETHER];
            Real found[TOGETHER];
            for (long c = 0; c < TOGETHER; ++c) of[c] = b + index[i + c] * inner;
            dots.template with<TOGETHER>(of, found);
            for (long c = 0; c < TOGETHER; ++c) product[index[i + c]] = found[c];
        }
        for (; i < wanted; ++i) {
            const Real* const of[] = {b + index[i] * inner};
            dots.template with<1>(of, product + index[i]);
        }
    }
}
