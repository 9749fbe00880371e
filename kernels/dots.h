// Products of which only some entries are wanted: inner products of rows. See ReferenceOps.matmul_where.
//
// An inner product Σ a b of complex numbers is two of real ones with the pairs of b: its real part is that of the pairs
// (Re a, −Im a), and its imaginary part that of (Im a, Re a). Both are computed together, so that b is read once.
#pragma once
#include "number.cuh"

// Adds the second half of 2·HALF numbers to the first, and so on, until the first number is the sum of all.
template <long HALF, class Real> __forceinline__ void fold(Real* numbers)
{
    for (long i = 0; i < HALF; ++i) numbers[i] += numbers[i + HALF];
    if constexpr (HALF > 1) fold<HALF / 2>(numbers);
}

// The pairs with which a complex vector is multiplied, in a room for two rows of them; a real vector is what it is.
template <class Real> __forceinline__ void as_pairs(const Real* vector, long, Real*, const Real** pairs)
{
    pairs[0] = vector;
}
template <class Real> __forceinline__ void as_pairs(const Complex<Real>* vector, long size, Real* room, const Real** pairs)
{
    Real *__restrict__ const real = room, *__restrict__ const imaginary = room + 2 * size;
    INDEPENDENT
    for (long j = 0; j < size; ++j) {
        real[2 * j] = imaginary[2 * j + 1] = vector[j].re;
        real[2 * j + 1] = -vector[j].im;
        imaginary[2 * j] = vector[j].im;
    }
    pairs[0] = real;
    pairs[1] = imaginary;
}

// What a vector's inner products need: the number of partial sums, which does not depend on the width of vectors, and how
// many products are computed together.
template <class Number> struct Dots {
    typedef RealOf<Number> Real;
    static const int PARTS_OF = PARTS<Number>;
    static const long SUMS = 64 / sizeof(Real), VECTORS = SUMS / LANES<Real>, MOST = 8 / (VECTORS * PARTS_OF);
    static const long TOGETHER = MOST < 4 ? MOST : 4;

    const Real* vector[PARTS_OF];
    long size;                 // in real numbers
    Real last[PARTS_OF][SUMS];  // the last SUMS entries, with zeros in place of those that full steps of SUMS have reached

    Dots(const Number* numbers, long count, Real* room) : size(PARTS_OF * count)
    {
        as_pairs(numbers, count, room, vector);
        for (int part = 0; part < PARTS_OF; ++part)
            for (long j = 0; j < SUMS; ++j)
                last[part][j] = j < SUMS - size % SUMS || size < SUMS ? 0 : vector[part][size - SUMS + j];
    }

    // The inner products with COUNT rows.
    template <long COUNT> __forceinline__ void with(const Real* const* rows, Number* numbers) const
    {
        Real* const products = (Real*)numbers;
        Vector<Real> sum[PARTS_OF][COUNT][VECTORS];
        for (int part = 0; part < PARTS_OF; ++part)
            for (long c = 0; c < COUNT; ++c)
                for (long v = 0; v < VECTORS; ++v) sum[part][c][v] = Vector<Real>{};
        const Real* const own[] = {vector[0], vector[PARTS_OF - 1]};
        // GCC would not inline what is called twice, and the sums would not stay in registers.
        auto add = [&](const Real* entries, const Real* others, long j) __attribute__((always_inline)) {
            for (long v = 0; v < VECTORS; ++v) {
                const Vector<Real> entry = read(entries + v * LANES<Real>);
                for (long c = 0; c < COUNT; ++c)
                    sum[0][c][v] = multiply_add(entry, read(rows[c] + j + v * LANES<Real>), sum[0][c][v]);
                if constexpr (PARTS_OF == 2) {
                    const Vector<Real> other = read(others + v * LANES<Real>);
                    for (long c = 0; c < COUNT; ++c)
                        sum[1][c][v] = multiply_add(other, read(rows[c] + j + v * LANES<Real>), sum[1][c][v]);
                }
            }
        };
        for (long j = 0; j + SUMS <= size; j += SUMS) add(own[0] + j, own[1] + j, j);
        if (size > SUMS && size % SUMS) add(last[0], last[PARTS_OF - 1], size - SUMS);
        for (long c = 0; c < COUNT; ++c)
            for (int part = 0; part < PARTS_OF; ++part) {
                Real sums[SUMS];
                for (long v = 0; v < VECTORS; ++v) write(sums + v * LANES<Real>, sum[part][c][v]);
                fold<SUMS / 2>(sums);
                for (long j = 0; size < SUMS && j < size; ++j)
                    sums[0] = multiply_add(vector[part][j], rows[c][j], sums[0]);
                products[PARTS_OF * c + part] = sums[0];
            }
    }
};

// The product (rows, columns) of a (rows, inner) and the transpose of b (columns, inner), in the entries where `where` is
// not 0; the others become 0. b is given as real numbers. `index` is room for a list of columns, and `room` for two rows
// of complex numbers, if a has such.
template <class Number, class Real = RealOf<Number>>
__forceinline__ void multiply_where(
    const Number* a, const Real* b, const signed char* where, long rows, long inner, long columns, unsigned* index,
    Real* room, Number* product)
{
    const long TOGETHER = Dots<Number>::TOGETHER, stride = PARTS<Number> * inner;
    for (; rows > 0; --rows, a += inner, where += columns, product += columns) {
        const Dots<Number> dots(a, inner, room);
        long wanted = 0;
        for (long j = 0; j < columns; ++j) {  // without a branch, which would often be predicted wrongly
            index[wanted] = j;
            wanted += where[j] != 0;
        }
        for (long j = 0; j < columns; ++j) product[j] = {};
        long i = 0;
        for (; i + TOGETHER <= wanted; i += TOGETHER) {
            const Real* of[TOGETHER];
            Number found[TOGETHER];
            for (long c = 0; c < TOGETHER; ++c) of[c] = b + index[i + c] * stride;
            dots.template with<TOGETHER>(of, found);
            for (long c = 0; c < TOGETHER; ++c) product[index[i + c]] = found[c];
        }
        for (; i < wanted; ++i) {
            const Real* const of[] = {b + index[i] * stride};
            dots.template with<1>(of, product + index[i]);
        }
    }
}
