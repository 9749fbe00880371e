// The functions of the library for one vector width, with C names: cuista_FUNCTION_REAL_WIDTH. See kernels/native.py.
#pragma once
#include "adam.h"
#include "dots.h"
#include "fista.h"
#include "maps.h"
#include "step.h"

#define JOINED(function, real, width) cuista_##function##_##real##_##width
#define NAMED(function, real, width) JOINED(function, real, width)
#define FUNCTION(function, real) extern "C" __attribute__((visibility("default"))) void NAMED(function, real, WIDTH)

// Calls run(kind) with the kind of a network's entries: single real numbers, or joint ones of real or complex numbers.
template <class Of, bool SINGLE> struct Kind {
    typedef Of Number;
    static const bool ALONE = SINGLE;
};
template <class Real, class Run> void of_kind(int parts, long snapshots, long group, Run run)
{
    if (parts == 2)
        run(Kind<Complex<Real>, false>{});
    else if (snapshots == 1 && group == 1)
        run(Kind<Real, true>{});
    else
        run(Kind<Real, false>{});
}

#define FUNCTIONS(real)                                                                                               \
    FUNCTION(shrink_select, real)(                                                                                    \
        const real* x, const real* u, real alpha, const real* threshold, long per_sample, long per_coordinate,        \
        const long long* support, long support_per_sample, real window, int one_sided, long rows, long N,             \
        unsigned* index, real* value, real* x_next, signed char* code)                                                \
    {                                                                                                                 \
        shrink_rows(                                                                                                  \
            x, u, alpha, threshold, per_sample, per_coordinate, support, support_per_sample, window, one_sided, rows, \
            N, index, value, x_next, code);                                                                           \
    }                                                                                                                 \
    FUNCTION(shrink_select_backward, real)(                                                                           \
        const real* delta, const signed char* code, const real* x, const real* u, real alpha, const real* threshold,  \
        long per_sample, long per_coordinate, real window, long rows, long N, real* d_z, double* d_step_size,         \
        double* d_threshold)                                                                                          \
    {                                                                                                                 \
        shrink_rows_backward(                                                                                         \
            delta, code, x, u, alpha, threshold, per_sample, per_coordinate, window, rows, N, d_z, d_step_size,       \
            d_threshold);                                                                                             \
    }                                                                                                                 \
    FUNCTION(shrink_joint, real)(                                                                                     \
        const real* x, const real* u, real alpha, const real* threshold, long per_sample, long per_coordinate,        \
        const long long* support, long support_per_sample, real window, long samples, long snapshots, long size,      \
        long entries, unsigned* chosen, real* magnitude, signed char* chosen_code, real* factor, real* x_next,        \
        signed char* code)                                                                                            \
    {                                                                                                                 \
        shrink_samples<real>(                                                                                         \
            x, u, alpha, threshold, per_sample, per_coordinate, support, support_per_sample, window,                  \
            {snapshots, size, entries}, samples, {chosen, magnitude, magnitude + entries, chosen_code, 0}, factor,    \
            x_next, code);                                                                                            \
    }                                                                                                                 \
    FUNCTION(shrink_joint_backward, real)(                                                                            \
        const real* delta, const signed char* code, const real* x, const real* u, real alpha, const real* threshold,  \
        long per_sample, long per_coordinate, real window, long samples, long snapshots, long size, long entries,     \
        real* d_z, double* d_step_size, double* d_threshold)                                                          \
    {                                                                                                                 \
        shrink_samples_backward(                                                                                      \
            delta, code, x, u, alpha, threshold, per_sample, per_coordinate, window, {snapshots, size, entries},      \
            samples, d_z, d_step_size, d_threshold);                                                                  \
    }                                                                                                                 \
    FUNCTION(sparse_matmul, real)(                                                                                    \
        const real* a, const real* b, int parts, long rows, long inner, long columns, unsigned* index, real* value,   \
        real* product)                                                                                                \
    {                                                                                                                 \
        if (parts == 1) return multiply_rows(a, b, rows, inner, columns, index, value, product);                      \
        typedef Complex<real> Number;                                                                                 \
        multiply_rows((const Number*)a, b, rows, inner, columns, index, (Number*)value, product);                     \
    }                                                                                                                 \
    FUNCTION(multiply_where, real)(                                                                                   \
        const real* a, const real* b, const signed char* where, int parts, long rows, long inner, long columns,       \
        unsigned* index, real* room, real* product)                                                                   \
    {                                                                                                                 \
        if (parts == 1) return multiply_where<real>(a, b, where, rows, inner, columns, index, room, product);         \
        typedef Complex<real> Number;                                                                                 \
        multiply_where<Number>((const Number*)a, b, where, rows, inner, columns, index, room, (Number*)product);      \
    }                                                                                                                 \
    FUNCTION(adam, real)(                                                                                             \
        const real* gradient, const real* scales, real rate, int logarithmic, long size, long first, long count,      \
        real* parameter, real* mean, real* square)                                                                    \
    {                                                                                                                 \
        adam(gradient, scales, rate, logarithmic, size, first, count, parameter, mean, square);                       \
    }                                                                                                                 \
    FUNCTION(adam_outer, real)(                                                                                       \
        const void* terms, const long long* starts, const real* scales, real rate, int logarithmic, int parts, long P,\
        long Q, long first, long count, long batch, unsigned* index, real* value, real* gradient, real* parameter,    \
        real* mean, real* square)                                                                                     \
    {                                                                                                                 \
        auto run = [=](auto* terms, auto* value) {                                                                    \
            adam_outer(                                                                                               \
                terms, starts, scales, rate, logarithmic, P, Q, first, count, batch, index, value, gradient, parameter,\
                mean, square);                                                                                        \
        };                                                                                                            \
        typedef Complex<real> Number;                                                                                 \
        parts == 1 ? run((const OuterSum<real>*)terms, value)                                                         \
                   : run((const OuterSum<Number>*)terms, (Number*)value);                                             \
    }                                                                                                                 \
    FUNCTION(pack, real)(const real* matrix, int parts, long rows, long columns, real* packed)                        \
    {                                                                                                                 \
        parts == 1 ? pack<real>(matrix, rows, columns, packed) : pack<Complex<real>>(matrix, rows, columns, packed);  \
    }                                                                                                                 \
    FUNCTION(analytic_layers, real)(                                                                                  \
        int parts, long snapshots, long group, const real* Wy, const real* packed, const real* step_size,             \
        const real* threshold, long per_layer, const long long* support, int one_sided, double dense, long depth,     \
        long rows, long N, long stride, long room, unsigned* index, real* value, real* products,                      \
        unsigned* chosen, real* magnitude, signed char* chosen_code, real* x)                                         \
    {                                                                                                                 \
        of_kind<real>(parts, snapshots, group, [=](auto kind) {                                                             \
            typedef typename decltype(kind)::Number Number;                                                           \
            const Layers<Number> layers = {packed, step_size, threshold, per_layer, support, 0, one_sided, dense,     \
                                           depth, N, snapshots, group};                                               \
            analytic_layers<decltype(kind)::ALONE>(                                                                   \
                layers, (const Number*)Wy, rows, stride, room, index, (Number*)value, products,                       \
                Choice<real>{chosen, magnitude, magnitude + N / group, chosen_code, 0}, (Number*)x);                  \
        });                                                                                                           \
    }                                                                                                                 \
    FUNCTION(conv_layer, real)(                                                                                       \
        const real* residual, const real* W, const real* D, real alpha, const real* threshold, long per_filter,       \
        const real* x, int has_x, long s1, long s2, long filters, long stride, long height, long width, long length,  \
        long* offset, unsigned* index, real* room, real* x_next, real* image)                                         \
    {                                                                                                                 \
        const ConvLayer<real> layer = {s1, s2, filters, stride, height, width, length, offset};                       \
        conv_layer(layer, residual, W, D, alpha, threshold, per_filter, has_x ? x : 0, index, room, x_next, image);   \
    }                                                                                                                 \
    FUNCTION(conv_step, real)(                                                                                        \
        const real* f, const real* picture, const real* W, const real* D, real alpha, const real* threshold,          \
        long per_filter, const real* x, int has_x, long s1, long s2, long filters, long stride, long height, long width,\
        long lines, long length, long* offset, unsigned* index, real* room, real* image, real* x_next, real* residual,\
        real* picture_next)                                                                                           \
    {                                                                                                                 \
        const ConvLayer<real> layer = {s1, s2, filters, stride, height, width, length, offset};                       \
        conv_step(                                                                                                    \
            layer, lines, f, picture, W, D, alpha, threshold, per_filter, has_x ? x : 0, index, room, image, x_next,  \
            residual, picture_next);                                                                                  \
    }                                                                                                                 \
    FUNCTION(conv_step_backward, real)(                                                                               \
        const real* residual, const real* d_picture_next, const real* W, const real* D, real alpha, const real* x_next,\
        const real* d_x, int has_d_x, int wants_weight, int wants_dictionary, long s1, long s2, long filters, long stride,\
        long height, long width, long lines, long length, long* offset, unsigned* index, real* room, real* images,    \
        real* sums, real* d_z, real* d_picture, double* d_step_size, double* d_threshold, real* d_weight,             \
        real* d_dictionary)                                                                                           \
    {                                                                                                                 \
        const ConvLayer<real> layer = {s1, s2, filters, stride, height, width, length, offset};                       \
        conv_step_backward(                                                                                           \
            layer, lines, residual, d_picture_next, W, D, alpha, x_next, has_d_x ? d_x : 0, index, room, images, sums, d_z,\
            d_picture, d_step_size, d_threshold, wants_weight ? d_weight : 0, wants_dictionary ? d_dictionary : 0);   \
    }                                                                                                                 \
    FUNCTION(proximal_iterations, real)(                                                                              \
        const real* Ay, const real* packed, real step_size, const real* threshold, long per_sample,                   \
        long per_coordinate, int momentum, int restart, int one_sided, double dense, long count, long rows, long N,   \
        long room, unsigned* index, real* value, real* products, real* change, real* x, real* ahead, double* t)       \
    {                                                                                                                 \
        proximal_iterations<real>(                                                                                    \
            {packed, step_size, threshold, per_sample, per_coordinate, momentum, restart, one_sided, dense, count, N},\
            Ay, rows, room, index, value, products, change, x, ahead, t);                                             \
    }                                                                                                                 \
    FUNCTION(alista_step, real)(                                                                                      \
        int parts, long snapshots, long group, const real* A_transposed, const real* W, const Word* limits,           \
        const double* log_ratio, int bernoulli, real a, real b, Word q_limit, int positive, real noise, real unit,    \
        long M, Word seed, Word stream, Word step, double share, double hard, double weight_power,                    \
        const real* forward, const real* backward, const real* step_size, const real* threshold,                      \
        const long long* support, real window, int one_sided, double dense, long depth, long N, long first_sample,    \
        long samples, long stride, long stride_y, long room, Word* words, Word* sizes, unsigned* index,               \
        unsigned* target_index, real* numbers, real* y, real* products, unsigned* kept_index, real* kept,             \
        signed char* kept_code, long kept_room, long* ends, unsigned* chosen, real* magnitude,                        \
        signed char* chosen_code, double* sums)                                                                       \
    {                                                                                                                 \
        of_kind<real>(parts, snapshots, group, [=](auto kind) {                                                             \
            typedef typename decltype(kind)::Number Number;                                                           \
            const long most = rows_at_a_time(snapshots, SHARD), size = most * stride;                                        \
            Number *const rows = (Number*)numbers, *const record = (Number*)kept;                                     \
            const Signals<Number> signals = {                                                                         \
                A_transposed, W, limits, log_ratio, {bernoulli, a, b, q_limit}, positive, noise, unit, M, seed,       \
                stream, step, share, hard, weight_power};                                                             \
            const Layers<Number> layers = {                                                                           \
                forward, step_size, threshold, 1, support, window, one_sided, dense, depth, N, snapshots, group};     \
            alista_step<decltype(kind)::ALONE>(                                                                       \
                signals, layers, backward, first_sample, samples,                                                     \
                Work<Number>{stride, stride_y, room, words, sizes, index, target_index, rows, rows + size,            \
                             (Number*)y, rows + 2 * size, products, rows + 3 * size, rows + 4 * size,                 \
                             {chosen, magnitude, magnitude + N / group, chosen_code, 0}},                             \
                Record<Number>{kept_index, record, record + most * kept_room, kept_code, kept_room, depth, ends,      \
                               rows + 4 * size + snapshots * stride, kept_code + most * kept_room},                   \
                sums);                                                                                                \
        });                                                                                                           \
    }

FUNCTIONS(float)
FUNCTIONS(double)
