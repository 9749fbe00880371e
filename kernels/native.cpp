// Which of the vector widths this processor has, and whether the library is the one that Python expects.

#define EXPORT extern "C" __attribute__((visibility("default")))

// The names of the widths, the fastest first.
EXPORT const char* cuista_widths()
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return "plain";
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? "avx512 avx2 plain" : "avx2 plain";
#elif defined(__aarch64__)
    return "neon plain";
#else
    return "plain";
#endif
}

EXPORT int cuista_interface() { return INTERFACE; }
