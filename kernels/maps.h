// A layer of a convolutional network on one picture, and its backward pass. See ReferenceOps.conv_layer.
//
// The maps (h, w, F) lie in memory place by place, and each place is padded to whole cache lines. At a place, the analysis
// is the product of a patch of an image and the filters; the synthesis adds a patch to an image, the sum of those filters
// whose entries are not 0. Rows of places are processed one after the other, so that what a row needs stays in the cache.
#pragma once
#include "rows.h"

// How many places, or taps, share each vector of filters that is read, and how many such vectors there are at a time. The
// sums of all of them fill the registers.
constexpr int ABREAST = REGISTERS < 16 ? 2 : 4;
static_assert(ABREAST <= MOST_ABREAST, "cuista/ops/native.py makes room for so many patches");
constexpr int COLUMNS = 6;
// The share of entries that are not 0 above which zeros are multiplied, too.
constexpr double DENSE_MAPS = 0.25;

// The numbers of a row that is padded to whole cache lines.
template <class Real> __forceinline__ long padded(long count)
{
    const long line = 64 / sizeof(Real);
    return (count + line - 1) / line * line;
}

// The sizes of a layer, with filters of s1×s2 taps, maps of height×width places, and images with lines of `length` pixels.
// The pixel of a tap is offset[tap] further on than that of the first tap. A patch that is added to an image has lines of
// `line` pixels, of which the last ones are 0, so that a few vectors hold each of them.
template <class Real> struct ConvLayer {
    long s1, s2, filters, stride, height, width, length, *offset;

    long taps() const { return s1 * s2; }
    long line() const { return (s2 + 3) / 4 * 4; }
    long room_of_patch() const { return padded<Real>(s1 * line()); }
    long room_of_filters() const { return padded<Real>(filters); }
    long first_pixel(long row, long column = 0) const { return (row * length + column) * stride; }

    void set_offsets() const
    {
        for (long tap = 0; tap < taps(); ++tap) offset[tap] = tap / s2 * length + tap % s2;
    }
    // Filters (taps, F) as rows of filters, padded with zeros, with the taps in order or in reverse.
    void by_tap(const Real* from, Real scale, bool reverse, Real* __restrict__ rows) const
    {
        for (long tap = 0; tap < taps(); ++tap, rows += room_of_filters()) {
            const Real* const row = from + (reverse ? taps() - 1 - tap : tap) * filters;
            for (long f = 0; f < room_of_filters(); ++f) rows[f] = f < filters ? scale * row[f] : 0;
        }
    }
    // … and as patches.
    void by_filter(const Real* from, bool reverse, Real* __restrict__ patches) const
    {
        for (long i = 0; i < filters * room_of_patch(); ++i) patches[i] = 0;
        for (long tap = 0; tap < taps(); ++tap) {
            const Real* const row = from + (reverse ? taps() - 1 - tap : tap) * filters;
            Real* const to = patches + tap / s2 * line() + tap % s2;
            for (long f = 0; f < filters; ++f) to[f * room_of_patch()] = row[f];
        }
    }
};

template <int N> struct Count {
    static constexpr int value = N;
};
// Calls run(count) with a number from 1 to MOST, which the compiler then knows.
template <int MOST, class Run> __forceinline__ void with_count(long count, Run run)
{
    if constexpr (MOST > 1)
        if (count < MOST) return with_count<MOST - 1>(count, run);
    run(Count<MOST>{});
}

// Calls run(first, how many vectors) for the vectors of a row, in blocks of at most COLUMNS that are as equal as possible.
template <class Real, class Run> __forceinline__ void by_columns(long numbers, Run run)
{
    const long vectors = numbers / LANES<Real>, blocks = (vectors + COLUMNS - 1) / COLUMNS;
    for (long block = 0; block < blocks; ++block) {
        const long first = block * vectors / blocks, last = (block + 1) * vectors / blocks;
        with_count<COLUMNS>(last - first, [&](auto count) { run(first * LANES<Real>, count); });
    }
}

// Adds up outer products in registers: sum[p][c] is the sum, over `terms` of them, of the number a[offset_of(i) + apart(p)]
// and of the vector c of the row b, of which the next is `step` further on.
template <int ROWS, int COUNT, class Real, class Offset, class Apart>
__forceinline__ void sum_outer(
    const Real* a, Offset offset_of, Apart apart, const Real* b, long step, long terms, Vector<Real> (&sum)[ROWS][COUNT])
{
    for (int p = 0; p < ROWS; ++p)
        for (int c = 0; c < COUNT; ++c) sum[p][c] = Vector<Real>{};
    for (long i = 0; i < terms; ++i, b += step) {
        const Real* const numbers = a + offset_of(i);
        Vector<Real> row[COUNT];
        for (int c = 0; c < COUNT; ++c) row[c] = read(b + c * LANES<Real>);
        for (int p = 0; p < ROWS; ++p) {
            const Vector<Real> number = numbers[apart(p)] - Vector<Real>{};
            for (int c = 0; c < COUNT; ++c) sum[p][c] = multiply_add(number, row[c], sum[p][c]);
        }
    }
}

// Calls block(how many, first) for `total` rows, so many at a time that their sums of COUNT vectors keep the processor busy:
// the next term of a sum has to wait for the last one. If rows may come twice, the last block begins earlier.
template <int COUNT, bool TWICE, class Block> __forceinline__ void by_rows(long total, Block block)
{
    constexpr int ROWS = COUNT > 2 ? ABREAST : 2 * ABREAST;
    long row = 0;
    for (; row + ROWS <= total; row += ROWS) block(Count<ROWS>{}, row);
    if (TWICE && row < total && total >= ROWS) return block(Count<ROWS>{}, total - ROWS);
    for (; row < total; ++row) block(Count<1>{}, row);
}

// The products of the patches of an image and the filters, for one row of places: calls use(place, filter, vector).
// Some places may come twice.
template <class Real, class Use>
__forceinline__ void analyse(const ConvLayer<Real>& layer, const Real* image, const Real* filters, Use use)
{
    const long stride = layer.stride, size = layer.room_of_filters(), *const offset = layer.offset;
    by_columns<Real>(size, [&](long f, auto count) {
        constexpr int COUNT = decltype(count)::value;
        by_rows<COUNT, true>(layer.width, [&](auto rows, long place) {
            constexpr int ROWS = decltype(rows)::value;
            Vector<Real> sum[ROWS][COUNT];
            sum_outer<ROWS, COUNT>(
                image + place * stride, [=](long tap) { return offset[tap]; }, [=](int p) { return p * stride; },
                filters + f, size, layer.taps(), sum);
            for (int p = 0; p < ROWS; ++p)
                for (int c = 0; c < COUNT; ++c) use(place + p, f + c * LANES<Real>, sum[p][c]);
        });
    });
}

// Adds to each filter's row of `gradient` the sum, over one row of places, of the patch of an image and the entry of z.
template <class Real>
__forceinline__ void add_correlations(const ConvLayer<Real>& layer, const Real* image, const Real* z, Real* gradient)
{
    const long stride = layer.stride, size = layer.room_of_filters(), *const offset = layer.offset;
    by_columns<Real>(size, [&](long f, auto count) {
        constexpr int COUNT = decltype(count)::value;
        by_rows<COUNT, false>(layer.taps(), [&](auto rows, long tap) {
            constexpr int ROWS = decltype(rows)::value;
            Vector<Real> sum[ROWS][COUNT];
            sum_outer<ROWS, COUNT>(
                image, [=](long place) { return place * stride; }, [=](int p) { return offset[tap + p]; }, z + f, size,
                layer.width, sum);
            for (int p = 0; p < ROWS; ++p)
                for (int c = 0; c < COUNT; ++c) {
                    Real* const to = gradient + (tap + p) * size + f + c * LANES<Real>;
                    write(to, read(to) + sum[p][c]);
                }
        });
    });
}

// Adds numbers to others, a few at a time.
template <int MANY, class Real> __forceinline__ void add_numbers(const Real* from, Real* to)
{
    typedef Real Some __attribute__((vector_size(MANY * sizeof(Real))));
    Some sum, more;
    __builtin_memcpy(&sum, to, sizeof sum);
    __builtin_memcpy(&more, from, sizeof more);
    sum += more;
    __builtin_memcpy(to, &sum, sizeof sum);
}

// Adds a patch to an image, of which the last line is followed by SPARE_PIXELS for the zeros that end a patch's line.
template <class Real> __forceinline__ void add_patch(const ConvLayer<Real>& layer, const Real* patch, Real* image)
{
    const long line = layer.line();
    auto each = [=](auto add) {
        for (long i = 0; i < layer.s1; ++i) add(patch + i * line, image + i * layer.length);
    };
    if (line == 4) return each([](const Real* from, Real* to) { add_numbers<4>(from, to); });
    if (line == 8) return each([](const Real* from, Real* to) { add_numbers<8>(from, to); });
    each([=](const Real* from, Real* to) {
        long j = 0;
        for (; j + 8 <= line; j += 8) add_numbers<8>(from + j, to + j);
        if (j < line) add_numbers<4>(from + j, to + j);
    });
}

// The sum of the filters in a list, times their entries.
template <class Real>
__forceinline__ void sum_listed(const ConvLayer<Real>& layer, const List<Real>& list, const Real* filters, Real* patch)
{
    constexpr int MOST = REGISTERS < 16 ? 4 : 8;
    const long size = layer.room_of_patch(), vectors = size / LANES<Real>;
    for (long first = 0; first < vectors; first += MOST)
        with_count<MOST>(vectors - first < MOST ? vectors - first : MOST, [&](auto count) {
            constexpr int COUNT = decltype(count)::value;
            // If there is room, two sets of sums, as the next term of a sum has to wait for the last one.
            constexpr int SETS = COUNT > MOST / 2 ? 1 : 2;
            const Real* const from = filters + first * LANES<Real>;
            Vector<Real> sum[SETS][COUNT] = {};
            auto add = [&](long i, Vector<Real>(&sum)[COUNT]) {
                const Real* const row = from + list.index[i] * size;
                const Vector<Real> value = list.value[i] - Vector<Real>{};
                for (int c = 0; c < COUNT; ++c) sum[c] = multiply_add(value, read(row + c * LANES<Real>), sum[c]);
            };
            long i = 0;
            for (; i + SETS <= list.length; i += SETS)
                for (int set = 0; set < SETS; ++set) add(i + set, sum[set]);
            for (; i < list.length; ++i) add(i, sum[0]);
            for (int c = 0; c < COUNT; ++c)
                write(patch + (first + c) * LANES<Real>, SETS == 1 ? sum[0][c] : sum[0][c] + sum[SETS - 1][c]);
        });
}

// Adds to patches of an image, for one row of places, the sums of the filters times the entries of z: all together where
// most entries are not 0, and else one by one. There is room for ABREAST patches.
//
// Patches that overlap do not follow each other: the processor would have to wait until a pixel is written before it can
// read it among others.
template <class Real>
__forceinline__ void synthesize(
    const ConvLayer<Real>& layer, const Real* z, const Real* filters, List<Real> list, Real* patches, Real* image)
{
    const long size = layer.room_of_filters(), room = layer.room_of_patch(), entries = layer.width * size;
    const long apart = (layer.s2 + layer.stride - 1) / layer.stride;
    int present = 0;
    for (long i = 0; i < entries; ++i) present += z[i] != 0;
    const bool dense = present > DENSE_MAPS * layer.width * layer.filters;
    for (long phase = 0; phase < apart; ++phase) {
        long place = phase;
        for (; dense && place + (ABREAST - 1) * apart < layer.width; place += ABREAST * apart) {
            by_columns<Real>(room, [&](long tap, auto count) {
                constexpr int COUNT = decltype(count)::value;
                Vector<Real> sum[ABREAST][COUNT];
                sum_outer<ABREAST, COUNT>(
                    z + place * size, [](long f) { return f; }, [=](int p) { return p * apart * size; }, filters + tap,
                    room, layer.filters, sum);
                for (int p = 0; p < ABREAST; ++p)
                    for (int c = 0; c < COUNT; ++c) write(patches + p * room + tap + c * LANES<Real>, sum[p][c]);
            });
            for (int p = 0; p < ABREAST; ++p)
                add_patch(layer, patches + p * room, image + (place + p * apart) * layer.stride);
        }
        for (; place < layer.width; place += apart) {
            list.gather_from(z + place * size, layer.filters);
            if (!list.length) continue;
            sum_listed(layer, list, filters, patches);
            add_patch(layer, patches, image + place * layer.stride);
        }
    }
}

// x_next = η(x + α W ⋆ r; θ), or without x if it is null, and its synthesis in an image with a border of s − 1 pixels, which
// is added. There is a threshold for each filter, or a single one.
template <class Real>
void conv_layer(
    const ConvLayer<Real>& layer, const Real* residual, const Real* W, const Real* D, Real alpha, const Real* threshold,
    long per_filter, const Real* x, unsigned* index, Real* room, Real* x_next, Real* image)
{
    const long size = layer.room_of_filters();
    Real *const analysis = room, *const synthesis = analysis + layer.taps() * size;
    Real *const theta = synthesis + layer.filters * layer.room_of_patch(), *const value = theta + size;
    Real* const patches = value + size;
    layer.set_offsets();
    layer.by_tap(W, alpha, false, analysis);
    layer.by_filter(D, true, synthesis);
    for (long f = 0; f < size; ++f) theta[f] = f < layer.filters ? threshold[f * per_filter] : 0;
    for (long row = 0; row < layer.height; ++row) {
        const long first = row * layer.width * size, pixel = layer.first_pixel(row);
        analyse(layer, residual + pixel, analysis, [=](long place, long f, Vector<Real> z) {
            const long at = first + place * size + f;
            const Vector<Real> bound = read(theta + f), least = bound >= 0 ? bound : Vector<Real>{};
            if (x) z += read(x + at);
            write(x_next + at, z - (z > least ? bound : z < -least ? -bound : z));  // passes on a NaN
        });
        synthesize(layer, x_next + first, synthesis, {index, value, 0}, patches, image + pixel);
    }
}

// The backward pass, from ∂L/∂x_next (null for 0) and ∂L/∂picture with a border of zeros. Writes d_z. Adds to the others: to
// d_residual, which is still without the factor α; to d_threshold, one number for each filter; and, unless they are null,
// to d_weight, also without α, and to d_dictionary, whose taps are in reverse order, both as rows of filters.
template <class Real>
void conv_layer_backward(
    const ConvLayer<Real>& layer, const Real* residual, const Real* d_picture, const Real* W, const Real* D,
    const Real* x_next, const Real* d_x, unsigned* index, Real* room, Real* d_z, Real* d_residual, double* d_threshold,
    Real* d_weight, Real* d_dictionary)
{
    const long size = layer.room_of_filters();
    Real *const analysis = room, *const synthesis = analysis + layer.taps() * size;
    Real *const sums = synthesis + layer.filters * layer.room_of_patch(), *const value = sums + size;
    Real* const patches = value + size;
    layer.set_offsets();
    layer.by_tap(D, 1, true, analysis);
    layer.by_filter(W, false, synthesis);
    for (long row = 0; row < layer.height; ++row) {
        const long first = row * layer.width * size, pixel = layer.first_pixel(row);
        const Real* const x = x_next + first;
        Real* const z = d_z + first;
        analyse(layer, d_picture + pixel, analysis, [=](long place, long f, Vector<Real> delta) {
            const long at = place * size + f;
            if (d_x) delta += read(d_x + first + at);
            write(z + at, read(x + at) != 0 ? delta : Vector<Real>{});
        });
        for (long f = 0; f < size; ++f) sums[f] = 0;
        for (long place = 0; place < layer.width; ++place)
            for (long f = 0; f < size; ++f)
                sums[f] += x[place * size + f] > 0 ? -z[place * size + f] : z[place * size + f];
        for (long f = 0; f < layer.filters; ++f) d_threshold[f] += sums[f];
        synthesize(layer, z, synthesis, {index, value, 0}, patches, d_residual + pixel);
        if (d_weight) add_correlations(layer, residual + pixel, z, d_weight);
        if (d_dictionary) add_correlations(layer, d_picture + pixel, x, d_dictionary);
    }
}

// -- pictures: the residual has its border reflected -----------------------------------------------------------------

// An image with a border of above×beside pixels on each side. See cuista/ops/borders.py.
template <class Real> struct Bordered {
    Real* pixels;
    long lines, length, above, beside;

    // Calls use(line, the first pixel inside it, how many there are) for each line inside the border.
    template <class Use> __forceinline__ void each_line(Use use) const
    {
        for (long y = 0; y < lines - 2 * above; ++y) use(y, pixels + (y + above) * length + beside, length - 2 * beside);
    }
    void clear() const
    {
        for (long i = 0; i < lines * length; ++i) pixels[i] = 0;
    }
    // Fills the border by reflection, without repeating the edge.
    void reflect() const
    {
        for (long y = 0; y < above; ++y)
            for (long x = beside; x < length - beside; ++x) {
                pixels[y * length + x] = pixels[(2 * above - y) * length + x];
                pixels[(lines - 1 - y) * length + x] = pixels[(lines - 1 - 2 * above + y) * length + x];
            }
        for (long y = 0; y < lines; ++y) {
            Real* const line = pixels + y * length;
            for (long x = 0; x < beside; ++x) {
                line[x] = line[2 * beside - x];
                line[length - 1 - x] = line[length - 1 - 2 * beside + x];
            }
        }
    }
    // The adjoint: adds the border to the pixels that it comes from.
    void fold() const
    {
        for (long y = 0; y < lines; ++y) {
            Real* const line = pixels + y * length;
            for (long x = 0; x < beside; ++x) {
                line[2 * beside - x] += line[x];
                line[length - 1 - 2 * beside + x] += line[length - 1 - x];
            }
        }
        for (long y = 0; y < above; ++y)
            for (long x = beside; x < length - beside; ++x) {
                pixels[(2 * above - y) * length + x] += pixels[y * length + x];
                pixels[(lines - 1 - 2 * above + y) * length + x] += pixels[(lines - 1 - y) * length + x];
            }
    }
};

// A layer on a picture f whose denoised version is so far `picture`. Writes x_next, the residual with its border, and the
// synthesis of x_next without one. `image` is room for an image with a border, and for SPARE_PIXELS more.
template <class Real>
void conv_step(
    const ConvLayer<Real>& layer, long lines, const Real* f, const Real* picture, const Real* W, const Real* D, Real alpha,
    const Real* threshold, long per_filter, const Real* x, unsigned* index, Real* room, Real* image, Real* x_next,
    Real* residual, Real* picture_next)
{
    const Bordered<Real> r = {residual, lines, layer.length, layer.s1 - 1, layer.s2 - 1};
    r.each_line([=](long y, Real* line, long width) {
        for (long j = 0; j < width; ++j) line[j] = f[y * width + j] - picture[y * width + j];
    });
    r.reflect();
    const Bordered<Real> next = {image, r.lines, r.length, r.above, r.beside};
    next.clear();
    conv_layer(layer, residual, W, D, alpha, threshold, per_filter, x, index, room, x_next, image);
    next.each_line([=](long y, const Real* line, long width) {
        for (long j = 0; j < width; ++j) picture_next[y * width + j] = line[j];
    });
}

// Its backward pass. `images` is room for two such images, and `sums` for two gradients as rows of filters.
template <class Real>
void conv_step_backward(
    const ConvLayer<Real>& layer, long lines, const Real* residual, const Real* d_picture_next, const Real* W,
    const Real* D, Real alpha, const Real* x_next, const Real* d_x, unsigned* index, Real* room, Real* images, Real* sums,
    Real* d_z, Real* d_picture, double* d_step_size, double* d_threshold, Real* d_weight, Real* d_dictionary)
{
    const long pixels = lines * layer.length, size = layer.room_of_filters(), taps = layer.taps();
    const Bordered<Real> around = {images, lines, layer.length, layer.s1 - 1, layer.s2 - 1};
    const Bordered<Real> d_r = {images + pixels + SPARE_PIXELS, lines, layer.length, around.above, around.beside};
    around.clear();
    around.each_line([=](long y, Real* line, long width) {
        for (long j = 0; j < width; ++j) line[j] = d_picture_next[y * width + j];
    });
    d_r.clear();
    for (long i = 0; i < 2 * taps * size; ++i) sums[i] = 0;
    Real* const by_dictionary = sums + taps * size;
    conv_layer_backward(
        layer, residual, around.pixels, W, D, x_next, d_x, index, room, d_z, d_r.pixels, d_threshold, d_weight ? sums : 0,
        d_dictionary ? by_dictionary : 0);
    *d_step_size = total(pixels, [=](long i) { return (double)d_r.pixels[i] * residual[i]; });
    d_r.fold();
    d_r.each_line([=](long y, const Real* line, long width) {
        for (long j = 0; j < width; ++j) d_picture[y * width + j] = -alpha * line[j];
    });
    for (long tap = 0; d_weight && tap < taps; ++tap)
        for (long f = 0; f < layer.filters; ++f) d_weight[tap * layer.filters + f] = alpha * sums[tap * size + f];
    for (long tap = 0; d_dictionary && tap < taps; ++tap)
        for (long f = 0; f < layer.filters; ++f)
            d_dictionary[(taps - 1 - tap) * layer.filters + f] = by_dictionary[tap * size + f];
}
