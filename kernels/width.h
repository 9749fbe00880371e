// The functions of the library for one vector width, with C names: cuista_FUNCTION_REAL_WIDTH. See kernels/native.py.
#pragma once
#include "adam.h"
#include "dots.h"
#include "step.h"

#define JOINED(function, real, width) cuista_##function##_##real##_##width
#define NAMED(function, real, width) JOINED(function, real, width)
#define FUNCTION(function, real) extern "C" __attribute__((visibility("default"))) void NAMED(function, real, WIDTH)

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
    FUNCTION(sparse_matmul, real)(                                                                                    \
        const real* a, const real* b, long rows, long inner, long columns, unsigned* index, real* value,              \
        real* product)                                                                                                \
    {                                                                                                                 \
        multiply_rows(a, b, rows, inner, columns, index, value, product);                                             \
    }                                                                                                                 \
    FUNCTION(multiply_where, real)(                                                                                   \
        const real* a, const real* b, const signed char* where, long rows, long inner, long columns, unsigned* index, \
        real* product)                                                                                                \
    {                                                                                                                 \
        multiply_where(a, b, where, rows, inner, columns, index, product);                                            \
    }                                                                                                                 \
    FUNCTION(adam, real)(                                                                                             \
        const real* gradient, const real* scales, real rate, int logarithmic, long size, long first, long count,      \
        real* parameter, real* mean, real* square)                                                                    \
    {                                                                                                                 \
        adam(gradient, scales, rate, logarithmic, size, first, count, parameter, mean, square);                       \
    }                                                                                                                 \
    FUNCTION(adam_outer, real)(                                                                                       \
        const void* terms, const long long* starts, const real* scales, real rate, int logarithmic, long P, long Q,   \
        long first, long count, long batch, unsigned* index, real* value, real* gradient, real* parameter, real* mean,\
        real* square)                                                                                                 \
    {                                                                                                                 \
        adam_outer(                                                                                                   \
            (const OuterSum<real>*)terms, starts, scales, rate, logarithmic, P, Q, first, count, batch, index, value, \
            gradient, parameter, mean, square);                                                                       \
    }                                                                                                                 \
    FUNCTION(pack, real)(const real* matrix, long rows, long columns, real* packed)                                   \
    {                                                                                                                 \
        pack(matrix, rows, columns, packed);                                                                          \
    }                                                                                                                 \
    FUNCTION(analytic_layers, real)(                                                                                  \
        const real* Wy, const real* packed, const real* step_size, const real* threshold, long per_layer,             \
        const long long* support, int one_sided, double dense, long depth, long rows, long N, long room,              \
        unsigned* index, real* value, real* products, real* x)                                                        \
    {                                                                                                                 \
        analytic_layers<real>(                                                                                        \
            {packed, step_size, threshold, per_layer, support, 0, one_sided, dense, depth, N}, Wy, rows, room, index, \
            value, products, x);                                                                                      \
    }                                                                                                                 \
    FUNCTION(alista_step, real)(                                                                                      \
        const real* A_transposed, const real* W, const Word* limits, const double* log_ratio, int bernoulli, real a,  \
        real b, Word q_limit, int positive, real noise, real unit, long M, Word seed, Word stream, Word step,         \
        double share, double hard, double weight_power, const real* forward, const real* backward,                    \
        const real* step_size, const real* threshold, const long long* support, real window, int one_sided,           \
        double dense, long depth, long N, long first_row, long shard, long stride, long stride_y, Word* words,        \
        Word* sizes, unsigned* index, unsigned* target_index, real* rows, real* y, unsigned* kept_index, real* kept,  \
        signed char* kept_code, long kept_room, long* ends, double* sums)                                             \
    {                                                                                                                 \
        const long size = SHARD * stride;                                                                             \
        alista_step<real>(                                                                                            \
            {A_transposed, W, limits, log_ratio, {bernoulli, a, b, q_limit}, positive, noise, unit, M, seed, stream,  \
             step, share, hard, weight_power},                                                                        \
            {forward, step_size, threshold, 1, support, window, one_sided, dense, depth, N}, backward, first_row,     \
            shard,                                                                                                    \
            {stride, stride_y, words, sizes, index, target_index, rows, rows + size, y, rows + 2 * size,              \
             rows + 3 * size, rows + 4 * size, rows + 5 * size},                                                      \
            {kept_index, kept, kept + SHARD * kept_room, kept_code, kept_room, depth, ends, rows + 5 * size + stride, \
             kept_code + SHARD * kept_room},                                                                          \
            sums);                                                                                                    \
    }

FUNCTIONS(float)
FUNCTIONS(double)
