/* What a CPU can do at best: fused multiply-adds in registers, and reads of memory. Called from ceilings.py, by each
 * thread for itself; every round notes when it began and ended, so that rounds of several threads can be held against
 * the clock that passed over all of them. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { HUGE_PAGE = 2 << 20, LANES = VECTOR_BITS / 32 };
typedef float floats __attribute__((vector_size(VECTOR_BITS / 8)));
typedef uint64_t words __attribute__((vector_size(VECTOR_BITS / 8)));

enum {
    ACCUMULATORS = 12, /* a latency of 4 times two ports, and some to spare; with both factors they fit 16 registers */
    STREAMS = 8
};

typedef struct {
    double begin, end; /* seconds on a clock that all threads share */
} span;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* `rounds` times ACCUMULATORS vectors of multiply-adds; returns the floating-point operations done. */
double tensorc_multiply(int64_t rounds, span *taken) {
    taken->begin = now();
    floats acc[ACCUMULATORS], factor, term;
    for (int lane = 0; lane < LANES; lane++) {
        factor[lane] = 0.999f; /* the sum converges: no overflow, and nothing denormal */
        term[lane] = 0.001f;
    }
    for (int a = 0; a < ACCUMULATORS; a++) acc[a] = term * (float)a;
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int a = 0; a < ACCUMULATORS; a++) acc[a] = acc[a] * factor + term;
    }
    /* The sums are wanted before the clock is read. */
    for (int a = 0; a < ACCUMULATORS; a++) __asm__ volatile("" : : "x"(acc[a]) : "memory");
    taken->end = now();
    return 2.0 * (double)rounds * ACCUMULATORS * LANES;
}

/* The same with products of bytes, four to each sum; nothing where no instruction does that. */
double tensorc_multiply_bytes(int64_t rounds, span *taken) {
#if VECTOR_BITS == 512 && defined(__AVX512VNNI__)
#define PRODUCTS _mm512_dpbusd_epi32
    typedef __m512i integers;
#elif VECTOR_BITS == 256 && defined(__AVXVNNI__)
#define PRODUCTS _mm256_dpbusd_avx_epi32
    typedef __m256i integers;
#elif VECTOR_BITS == 256 && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define PRODUCTS _mm256_dpbusd_epi32
    typedef __m256i integers;
#endif
    taken->begin = now();
    double done = 0;
#ifdef PRODUCTS
    integers acc[ACCUMULATORS], factor, term;
    memset(&factor, 1, sizeof factor);
    memset(&term, 2, sizeof term);
    for (int a = 0; a < ACCUMULATORS; a++) memset(&acc[a], a, sizeof acc[a]); /* equal ones would be computed once */
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int a = 0; a < ACCUMULATORS; a++) acc[a] = PRODUCTS(acc[a], factor, term);
    }
    for (int a = 0; a < ACCUMULATORS; a++) __asm__ volatile("" : : "x"(acc[a]) : "memory");
    done = 8.0 * (double)rounds * ACCUMULATORS * LANES;
#endif
    taken->end = now();
    return done;
}

/* Memory to read, touched by the thread that will read it; NULL if there is none. Give it back with free. */
char *tensorc_memory(size_t bytes) {
    char *data = aligned_alloc(HUGE_PAGE, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (!data) return NULL;
    madvise(data, bytes, MADV_HUGEPAGE); /* what page walks cost is no part of a bandwidth */
    memset(data, 1, bytes);
    return data;
}

/* Reads `bytes`, a multiple of STREAMS vectors, `passes` times; returns the bytes read. */
double tensorc_read(const char *data, size_t bytes, int64_t passes, span *taken) {
    taken->begin = now();
    words seen[STREAMS] = {0};
    for (int64_t pass = 0; pass < passes; pass++) {
        for (size_t at = 0; at < bytes; at += sizeof seen) {
#pragma GCC unroll 8
            for (int i = 0; i < STREAMS; i++) seen[i] |= *(const words *)(data + at + (size_t)i * sizeof(words));
        }
        __asm__ volatile("" : : : "memory"); /* the next pass reads again */
    }
    for (int i = 0; i < STREAMS; i++) __asm__ volatile("" : : "x"(seen[i]));
    taken->end = now();
    return (double)bytes * (double)passes;
}
