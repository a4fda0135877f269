#include "cpu.h"

int tq_cpu_baseline(void) { return 1; }

#if defined(__x86_64__) || defined(_M_X64)
/* gcc's and clang's detection asks cpuid and xgetbv, so that a level counts only when the system saves its registers. */
int tq_cpu_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("f16c");
}

int tq_cpu_avx512(void) {
    return tq_cpu_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

int tq_cpu_avx512vbmi(void) { return tq_cpu_avx512() && __builtin_cpu_supports("avx512vbmi"); }
#endif

#if defined(__aarch64__)
int tq_cpu_neon(void) { return 1; }

#if defined(__linux__)
#include <sys/auxv.h>
int tq_cpu_dotprod(void) { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; } /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
int tq_cpu_dotprod(void) { return 1; } /* every Apple arm64 chip */
#else
int tq_cpu_dotprod(void) { return 0; }
#endif
#endif
