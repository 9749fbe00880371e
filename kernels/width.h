// The functions of the library for one vector width, with C names: cuista_FUNCTION_REAL_WIDTH. See kernels/native.py.
#pragma once
#include "layers.h"

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
    FUNCTION(pack, real)(const real* matrix, long rows, long columns, real* packed)                                   \
    {                                                                                                                 \
        pack(matrix, rows, columns, packed);                                                                          \
    }                                                                                                                 \
    FUNCTION(analytic_layers, real)(                                                                                  \
        const real* Wy, const real* packed, const real* step_size, const real* threshold, long per_layer,             \
        const long long* support, int one_sided, long depth, long rows, long N, long room, unsigned* index,           \
        real* value, real* products, real* x)                                                                         \
    {                                                                                                                 \
        analytic_layers(                                                                                              \
            Wy, packed, step_size, threshold, per_layer, support, one_sided, depth, rows, N, room, index, value,      \
            products, x);                                                                                             \
    }

FUNCTIONS(float)
FUNCTIONS(double)
