// Products with sparse vectors, which read only those rows of a matrix that belong to a non-zero entry, as in list.cuh.
//
// Vectors are of real or of complex numbers. A complex matrix is read as a real one with twice as many columns, the real
// and the imaginary parts in turn. Its product with x + iy is the sum of its product with x and of i times that with y.
// Both are added up in one pass, in two sets of sums, and only the second of them is multiplied by i, at the end.
#pragma once
#include "entry.cuh"

// Whether the key of a number exceeds `low`, which is 0 for complex ones: whether they are zero is all that is asked.
template <class Real> __forceinline__ bool is_above(Real z, typename KeyOf<Real>::type low) { return key_of(z) > low; }
template <class Real> __forceinline__ bool is_above(Complex<Real> z, typename KeyOf<Real>::type low)
{
    return (key_of(z.re) | key_of(z.im)) > low;
}

// Entries of a vector, in the order of their indices.
template <class Number> struct List {
    unsigned* index;
    Number* value;
    long length;

    // Takes the entries whose key exceeds `low`: with 0, those that are not zero.
    __forceinline__ void gather_from(const Number* vector, long N, typename KeyOf<RealOf<Number>>::type low = 0)
    {
        long j = 0;
        length = 0;
#ifdef SQUEEZED
        if constexpr (sizeof(Number) == sizeof(float))
            for (; j + SQUEEZED <= N; j += SQUEEZED)
                length += squeeze(vector + j, low, j, value + length, index + length);
#endif
        for (; j < N; ++j) {  // without a branch, which would often be predicted wrongly
            index[length] = j;
            value[length] = vector[j];
            length += is_above(vector[j], low);
        }
    }

    // Writes the vector of N entries, of which those that are not in the list are `others`.
    __forceinline__ void spread_to(Number* vector, long N, Number others = {}) const
    {
        for (long j = 0; j < N; ++j) vector[j] = others;
        for (long i = 0; i < length; ++i) vector[index[i]] = value[i];
    }
};

// The real (PART = 0) or the imaginary part of a number, in every lane.
template <int PART, class Number> __forceinline__ Vector<RealOf<Number>> in_all_lanes(const Number& number)
{
    return reinterpret_cast<const RealOf<Number>*>(&number)[PART] - Vector<RealOf<Number>>{};
}

// Part of a row of the product: the sum of value[i] · (row index[i] of the matrix), over the columns of COUNT vectors,
// which stay in registers. Rows are `stride` entries apart. The last vector begins `back` columns earlier. With `more`,
// the sums go on from what they were. The sums with imaginary parts lie `apart` from those with real parts.
template <int COUNT, class Number, class Real = RealOf<Number>>
__forceinline__ void sum_rows(
    const List<Number>& list, const Real* matrix, long stride, long back, Real* sums, long apart, bool more)
{
    const Real* const last = matrix - back;
    auto place = [=](int part, int c) { return sums + part * apart + c * LANES<Real> - (c + 1 < COUNT ? 0 : back); };
    Vector<Real> sum[PARTS<Number>][COUNT] = {};
    if (more)
        for (int part = 0; part < PARTS<Number>; ++part)
            for (int c = 0; c < COUNT; ++c) sum[part][c] = read(place(part, c));
    for (long i = 0; i < list.length; ++i) {
        const long row = list.index[i] * stride;
        const Vector<Real> value = in_all_lanes<0>(list.value[i]);
        const Vector<Real> imaginary = in_all_lanes<PARTS<Number> - 1>(list.value[i]);
        for (int c = 0; c < COUNT; ++c) {
            const Vector<Real> entries = read((c + 1 < COUNT ? matrix : last) + row + c * LANES<Real>);
            sum[0][c] = multiply_add(value, entries, sum[0][c]);
            if constexpr (PARTS<Number> == 2) sum[1][c] = multiply_add(imaginary, entries, sum[1][c]);
        }
    }
    for (int part = 0; part < PARTS<Number>; ++part)
        for (int c = 0; c < COUNT; ++c) write(place(part, c), sum[part][c]);
}

// The same for `count` vectors, from 1 to COUNT.
template <int COUNT, class Number, class Real = RealOf<Number>>
__forceinline__ void sum_rows_of(
    long count, const List<Number>& list, const Real* matrix, long stride, long back, Real* sums, long apart, bool more)
{
    if constexpr (COUNT > 1)
        if (count < COUNT) return sum_rows_of<COUNT - 1>(count, list, matrix, stride, back, sums, apart, more);
    sum_rows<COUNT>(list, matrix, stride, back, sums, apart, more);
}

// The complex numbers of a product, from its sums with real parts and with imaginary parts: calls use(j, real part,
// imaginary part) for columns j and j + 1.
template <class Real, class Use> __forceinline__ void turn(const Real* with_real, const Real* with_imaginary, long columns, Use use)
{
    INDEPENDENT
    for (long j = 0; j < columns; j += 2)
        use(j, with_real[j] - with_imaginary[j + 1], with_real[j + 1] + with_imaginary[j]);
}

// How many vectors of each set of sums stay in registers.
template <class Number> constexpr int WIDE = REGISTERS / PARTS<Number>;

// How columns are divided: into panels of at most WIDE vectors, as equal as possible. The rows of a panel stay in the
// cache while all samples of a shard use them.
template <class Number> struct Panels {
    static const long LANES_OF = LANES<RealOf<Number>>;
    long columns, vectors, count;

    explicit Panels(long columns)
        : columns(columns), vectors((columns + LANES_OF - 1) / LANES_OF), count((vectors + WIDE<Number> - 1) / WIDE<Number>)
    {
    }

    long begin(long panel) const { return panel * vectors / count; }  // in vectors
};

// The products (rows, columns) of sparse vectors of complex numbers and a matrix, whose columns are counted as real ones.
// With `more`, they are added.
template <class Real>
__attribute__((noinline)) void multiply(
    const List<Complex<Real>>* lists, long rows, const Real* matrix, long columns, Real* products, bool more = false)
{
    const long MOST = WIDE<Complex<Real>>;
    const Panels<Complex<Real>> panels(columns);
    const long beyond = panels.vectors * LANES<Real> - columns;  // the last vector begins earlier by this
    Real room[2 * MOST * LANES<Real>], *const other = room + MOST * LANES<Real>;
    for (long panel = 0; panel < panels.count; ++panel) {
        const long begin = panels.begin(panel), end = panels.begin(panel + 1), j = begin * LANES<Real>;
        const long back = end == panels.vectors ? beyond : 0, width = (end - begin) * LANES<Real> - back;
        for (long row = 0; row < rows; ++row) {
            const List<Complex<Real>>& list = lists[row];
            if (columns >= LANES<Real>)
                sum_rows_of<MOST>(end - begin, list, matrix + j, columns, back, room, other - room, false);
            else
                for (long c = 0; c < columns; ++c) {
                    room[c] = other[c] = 0;
                    for (long i = 0; i < list.length; ++i) {
                        const Real entry = matrix[list.index[i] * columns + c];
                        room[c] = multiply_add(list.value[i].re, entry, room[c]);
                        other[c] = multiply_add(list.value[i].im, entry, other[c]);
                    }
                }
            Real* const sums = products + row * columns + j;
            turn(room, other, width, [=](long c, Real re, Real im) {
                sums[c] = more ? sums[c] + re : re;
                sums[c + 1] = more ? sums[c + 1] + im : im;
            });
        }
    }
}

// The same for real numbers.
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
                sum_rows_of<REGISTERS>(end - begin, lists[row], matrix + j, columns, back, sums, 0, more);
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

// The product of a (rows, inner), which is sparse, and b (inner, columns), whose columns are counted as real ones. SHARD
// rows at a time use the room, which has `inner` entries for each of them.
template <class Number, class Real = RealOf<Number>>
__forceinline__ void multiply_rows(
    const Number* a, const Real* b, long rows, long inner, long columns, unsigned* index, Number* value, Real* product)
{
    List<Number> lists[SHARD];
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
// The numbers of the vectors decide how wide panels are.
template <class Number, class Real = RealOf<Number>>
__forceinline__ void pack(const Real* matrix, long rows, long columns, Real* packed)
{
    const Panels<Number> panels(columns);
    for (long panel = 0; panel < panels.count; ++panel)
        for (long row = 0; row < rows; ++row)
            for (long j = panels.begin(panel) * LANES<Real>; j < panels.begin(panel + 1) * LANES<Real>; ++j)
                *packed++ = j < columns ? matrix[row * columns + j] : Real(0);
}

// The part of a matrix that will be read next. It is brought into the second-level cache while the one before is used.
struct Ahead {
    const char *next, *end;
    long lines;  // at a time

    // `count` entries from `begin` on, but none from `last` on, in as many `steps`.
    template <class Real>
    __forceinline__ Ahead(const Real* begin, const Real* last, long count, long steps)
        : next((const char*)begin), end((const char*)(last - begin < count ? last : begin + count)),
          lines(count * long(sizeof(Real)) / (64 * steps) + 1)
    {
    }

    __forceinline__ void step()
    {
        for (long i = 0; i < lines && next < end; ++i, next += 64) __builtin_prefetch(next, 0, 2);
    }
};

// Rows that are not sparse: adds to COUNT sums of ROWS rows the products of `inner` entries with as many rows of the
// matrix, which are read once for all. In the order of `sum_rows`, so that the bits are the same.
template <int ROWS, int COUNT, class Number, class Real = RealOf<Number>>
__forceinline__ void sum_rows_together(
    const Number* rows, long distance, const Real* matrix, long stride, long inner, bool begin, Real* sums, long room)
{
    const int OF_ROW = PARTS<Number>;
    auto place = [=](int set, int c) { return sums + set * (room / OF_ROW) + c * LANES<Real>; };
    Vector<Real> sum[ROWS * OF_ROW][COUNT] = {};
    if (!begin)
        for (int set = 0; set < ROWS * OF_ROW; ++set)
            for (int c = 0; c < COUNT; ++c) sum[set][c] = read(place(set, c));
    for (long i = 0; i < inner; ++i) {
        Vector<Real> entries[COUNT];
        for (int c = 0; c < COUNT; ++c) entries[c] = read(matrix + i * stride + c * LANES<Real>);
        for (int row = 0; row < ROWS; ++row) {
            const Number& number = rows[row * distance + i];
            const Vector<Real> value = in_all_lanes<0>(number), imaginary = in_all_lanes<OF_ROW - 1>(number);
            Vector<Real>(*const own)[COUNT] = sum + row * OF_ROW;
            for (int c = 0; c < COUNT; ++c) {
                own[0][c] = multiply_add(value, entries[c], own[0][c]);
                if constexpr (OF_ROW == 2) own[1][c] = multiply_add(imaginary, entries[c], own[1][c]);
            }
        }
    }
    for (int set = 0; set < ROWS * OF_ROW; ++set)
        for (int c = 0; c < COUNT; ++c) write(place(set, c), sum[set][c]);
}

// The same for a panel of `vectors` vectors, part by part: a part of the matrix stays near while all rows use it. What
// follows it, up to `last`, is fetched meanwhile.
template <class Number, class Real = RealOf<Number>>
__forceinline__ void multiply_panel(
    const Number* rows, long count, long distance, const Real* panel, long inner, long vectors, const Real* last,
    Real* products, long room)
{
    const long ROWS = 4 / PARTS<Number>, COUNT = REGISTERS / 4, INNER = 128;
    const long width = vectors * LANES<Real>;
    for (long first = 0; first < inner; first += INNER) {
        const long some = inner - first < INNER ? inner - first : INNER;
        Ahead ahead(panel + (first + some) * width, last, INNER * width, vectors * count / (ROWS * COUNT) + 1);
        for (long c = 0; c < vectors;) {
            const long wide = vectors - c < COUNT ? 1 : COUNT;
            for (long row = 0; row < count;) {
                const long high = count - row < ROWS ? 1 : ROWS;
                const Number* const of = rows + row * distance + first;
                const Real* const matrix = panel + first * width + c * LANES<Real>;
                Real* const sums = products + row * room + c * LANES<Real>;
                ahead.step();
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

// The products of vectors and a packed matrix, `room` real numbers apart, with as many columns as fill whole vectors. The
// columns are counted as real ones; if numbers are complex, each half of the room has one of the two sets of sums. The
// vectors are given as lists, and as rows `distance` apart, which are used if more than the share `dense` of the entries
// are not zero. This decides how long it takes, and not a bit of the result.
template <class Number, class Real = RealOf<Number>>
__attribute__((noinline)) void multiply_packed(
    const List<Number>* lists, const Number* rows, long distance, long count, double dense, const Real* packed,
    long inner, long columns, Real* products, long room)
{
    const long MOST = LARGE_SHARD;
    for (; count > MOST; count -= MOST, lists += MOST, rows += MOST * distance, products += MOST * room)
        multiply_packed(lists, rows, distance, MOST, dense, packed, inner, columns, products, room);
    const Panels<Number> panels(columns);
    long entries = 0;
    for (long row = 0; row < count; ++row) entries += lists[row].length;
    const bool are_dense = entries > dense * count * inner;
    // A large matrix is in no near cache. It is fetched part by part if most of its rows are needed.
    const long all = inner * panels.vectors * LANES<Real>;
    const bool far = all * long(sizeof(Real)) > 1l << 22 && entries > inner;
    const Real* const last = far ? packed + all : packed;
    // So many rows of the matrix at a time that a vector has about 20 entries among them. Fewer rows stay in a nearer
    // cache while all vectors use them, but then sums are read and written more often.
    const long wanted = entries > 0 ? 20 * count * inner / entries : inner, most = far ? 512 : 1024;
    const long part = wanted < 64 ? 64 : wanted < most ? wanted : most;
    for (long panel = 0; panel < panels.count; ++panel) {
        const long begin = panels.begin(panel) * LANES<Real>, width = panels.begin(panel + 1) * LANES<Real> - begin;
        const long vectors = width / LANES<Real>;
        const Real* const matrix = packed + begin * inner;
        if (are_dense) {
            multiply_panel(rows, count, distance, matrix, inner, vectors, last, products + begin, room);
            continue;
        }
        long done[LARGE_SHARD] = {};
        for (long first = 0; first < inner; first += part) {
            const unsigned end = first + part < inner ? first + part : inner;
            Ahead ahead(matrix + end * width, last, part * width, count);
            for (long row = 0; row < count; ++row) {
                ahead.step();
                const List<Number>& list = lists[row];
                long stop = done[row];
                while (stop < list.length && list.index[stop] < end) ++stop;
                const List<Number> those = {list.index + done[row], list.value + done[row], stop - done[row]};
                if (first == 0 || those.length > 0)
                    sum_rows_of<WIDE<Number>>(
                        vectors, those, matrix, width, 0, products + row * room + begin, room / PARTS<Number>, first > 0);
                done[row] = stop;
            }
        }
    }
}
