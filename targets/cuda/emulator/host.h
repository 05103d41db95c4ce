/* CUDA C on a CPU: what `prelude.cuh` is to a GPU, for g++. A block's threads are fibers that take turns where they wait
   for each other; blocks run one after the other. For tests: it is exact, and slow. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>
#include <vector>
#ifdef TENSORC_TRACED
#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#endif

typedef unsigned char uchar;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#ifdef TENSORC_TRACED
#define TENSORC_DEVICE static inline __attribute__((always_inline)) /* accesses are told apart by where they stand */
#else
#define TENSORC_DEVICE static inline
#endif

#define TENSORC_ORDER(T) \
    static inline T max(T a, T b) { return a < b ? b : a; } \
    static inline T min(T a, T b) { return b < a ? b : a; }
TENSORC_ORDER(float)
TENSORC_ORDER(double)
TENSORC_ORDER(int)
TENSORC_ORDER(unsigned)
TENSORC_ORDER(int64_t)
TENSORC_ORDER(uint64_t)

#define CUDART_INF_F (__builtin_inff())
#define CUDART_NAN_F (__builtin_nanf(""))
#define CUDART_INF (__builtin_inf())
#define CUDART_NAN (__builtin_nan(""))

/* By the compiler's own functions for the instructions: the header that has them takes a second to read. */
struct half {
    typedef float floats __attribute__((vector_size(16)));
    typedef short halves __attribute__((vector_size(16)));
    uint16_t bits;
    half() = default;
    template <typename T> half(T x) : bits(__builtin_ia32_vcvtps2ph((floats){(float)x}, 0)[0]) {}
    operator float() const { return __builtin_ia32_vcvtph2ps((halves){(short)bits})[0]; }
};
#define __float2half_rn(x) half(x)
#define __half2float(x) ((float)(x))
/* As the code generator calls the functions of a float16. */
#define __habs(x) half(fabsf(x))
#define hceil(x) half(ceilf(x))
#define hfloor(x) half(floorf(x))
#define hnearbyint(x) half(nearbyintf(x))
#define hsqrt(x) half(sqrtf(x))
#define htrunc(x) half(truncf(x))

/* Threads ------------------------------------------------------------------------------------------------- */

struct tc_index {
    int x;
};
static tc_index threadIdx, blockIdx;

#define TC_STACK (256 << 10)

/* Who waits goes on when the number at `gate` is no longer what it was. */
struct tc_fiber {
    ucontext_t context;
    char *stack;
    const int *gate;
    int seen;
    bool done;
};

/* Threads that do something together: how many are left, how many have arrived, and how often all had. */
struct tc_team {
    int members, arrived, turns;
    void *given[1024];
};

static tc_fiber tc_fibers[1024];
static char *tc_stacks; /* for as long as a launch lasts: a model has hundreds of kernels */
static ucontext_t tc_scheduler;
static int tc_current;
static tc_team tc_block, tc_warps[32];
static void (*tc_entry)();
static const char *tc_error;
/* Dynamic shared memory comes behind static one, 64 bytes at least, unless it asks for more. */
static unsigned char *tc_shared_memory;
static size_t tc_shared_bytes;
template <int N> static unsigned char *tc_dynamic_at() {
    return tc_shared_memory + (64 + N - 1) / N * N;
}
#define TC_SHARED_MOST (240 << 10)

static void tc_wait(const int *gate) {
    tc_fiber &me = tc_fibers[tc_current];
    me.gate = gate;
    me.seen = *gate;
    swapcontext(&me.context, &tc_scheduler);
}

static void tc_leave(tc_team &team) {
    team.members--;
    if (team.members && team.arrived == team.members) tc_error = "some threads of a block ended where others wait";
}

static void tc_run() {
    tc_entry();
    tc_leave(tc_block);
    tc_leave(tc_warps[tc_current / 32]);
    tc_fibers[tc_current].done = true;
    swapcontext(&tc_fibers[tc_current].context, &tc_scheduler);
}

/* All of `team` give an address; the last to come does `all` with those of members 0 to the last. */
template <typename F> static void tc_together(tc_team &team, int member, void *given, F all) {
    team.given[member] = given;
    if (++team.arrived == team.members) {
        all(team.given);
        team.arrived = 0;
        team.turns++;
    } else {
        tc_wait(&team.turns);
    }
}

static void __syncthreads() {
    tc_together(tc_block, tc_current, nullptr, [](void **) {});
}

template <typename F> static void tc_warp(void *given, F all) {
    tc_together(tc_warps[tc_current / 32], tc_current % 32, given, all);
}

/* Device functions say what they read and write. */
#ifdef TENSORC_TRACED
#include "trace.h"
#define TENSORC_READS(where, bytes) tc_note(where, bytes, false)
#define TENSORC_WRITES(where, bytes) tc_note(where, bytes, true)
#else
#define TENSORC_READS(where, bytes) (void)0
#define TENSORC_WRITES(where, bytes) (void)0
#endif

static void tc_forget_pieces(int threads);
/* Of hopper.h, where it is included. */
static void (*tc_hopper_begins)(int threads), (*tc_hopper_ends)();

/* Threads take their turns in order in even blocks, the last one first in odd ones: who does not wait for another finds
   it behind in one of them. */
static void tc_one_block(int threads) {
    tc_block = tc_team{threads, 0, 0, {}};
    tc_forget_pieces(threads);
    if (tc_hopper_begins) tc_hopper_begins(threads);
    for (int first = 0; first < threads; first += 32) {
        tc_warps[first / 32] = tc_team{min(32, threads - first), 0, 0, {}};
    }
    for (int i = 0; i < threads; i++) {
        tc_fiber &fiber = tc_fibers[i];
        fiber.stack = tc_stacks + (size_t)i * TC_STACK;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = TC_STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, tc_run, 0);
        fiber.done = false;
        fiber.gate = nullptr;
    }
    for (int left = threads; left && !tc_error;) {
        bool moved = false;
        for (int turn = 0; turn < threads && !tc_error; turn++) {
            int i = blockIdx.x % 2 ? threads - 1 - turn : turn;
            tc_fiber &fiber = tc_fibers[i];
            if (fiber.done || (fiber.gate && *fiber.gate == fiber.seen)) continue;
            moved = true;
            tc_current = threadIdx.x = i;
            fiber.gate = nullptr;
            swapcontext(&tc_scheduler, &fiber.context);
            if (fiber.done) left--;
        }
        if (!moved && left) tc_error = "the threads of a block wait for each other at different places";
    }
    if (!tc_error && tc_hopper_ends) tc_hopper_ends();
}

/* Launches ------------------------------------------------------------------------------------------------ */

static void **tc_arguments;

template <typename... A, size_t... I> static void tc_call(void (*kernel)(A...), std::index_sequence<I...>) {
    kernel((A)tc_arguments[I]...);
}

template <typename... A> static void tc_begin(void (*kernel)(A...)) {
    tc_call(kernel, std::index_sequence_for<A...>());
}

static const char *tc_launch(void (*entry)(), int blocks, int threads, size_t shared, void **arguments) {
    tc_entry = entry;
    tc_arguments = arguments;
    tc_error = nullptr;
    tc_stacks = (char *)malloc((size_t)threads * TC_STACK);
    tc_shared_memory = (unsigned char *)aligned_alloc(1024, TC_SHARED_MOST);
    tc_shared_bytes = shared + 1024;
    if (!tc_stacks || !tc_shared_memory) tc_error = "there is no memory for the threads of a block";
    if (tc_shared_bytes > TC_SHARED_MOST) tc_error = "a block has no room for so much shared memory";
    for (int block = 0; block < blocks && !tc_error; block++) {
        blockIdx.x = block;
        memset(tc_shared_memory, 0xff, tc_shared_bytes); /* nan to every float type, until it is written */
        tc_one_block(threads);
#ifdef TENSORC_TRACED
        tc_count();
#endif
    }
    free(tc_shared_memory);
    free(tc_stacks);
    return tc_error;
}

/* Device functions, as in prelude.cuh ---------------------------------------------------------------------- */

/* Warps: what threads of a warp tell each other. */

/* What the lane has whose number differs in the bits of `mask`. All lanes of the warp come here. */
template <typename T> TENSORC_DEVICE T tc_shuffle_xor(T x, int mask) {
    struct {
        T x, y;
    } mine = {x, x};
    typedef decltype(mine) Lane;
    auto exchange = [mask](void **given) {
        for (int i = 0; i < 32; i++) ((Lane *)given[i])->y = ((Lane *)given[i ^ mask])->x;
    };
    tc_warp(&mine, exchange);
    return mine.y;
}

/* Memory: what a thread moves at once. */

/* Of each 16 bytes of shared memory: copies to it that are under way, products that read it, and the thread that wrote
   it without a fence for products of warpgroups, counted from 1. Only what device functions write is known. */
struct tc_piece {
    int coming, read, unfenced;
};
static tc_piece tc_pieces[TC_SHARED_MOST / 16];
static std::vector<int> tc_unfenced[1024]; /* a thread's pieces */

static void tc_forget_pieces(int threads) {
    memset(tc_pieces, 0, tc_shared_bytes / 16 * sizeof *tc_pieces);
    for (int i = 0; i < threads; i++) tc_unfenced[i].clear();
}
/* The first and the last piece; none, if `to` is elsewhere. */
static std::pair<int, int> tc_pieces_of(const void *to, size_t bytes) {
    uintptr_t at = (uintptr_t)to - (uintptr_t)tc_shared_memory;
    if (at >= tc_shared_bytes) return {0, -1};
    return {(int)(at / 16), (int)((at + bytes - 1) / 16)};
}
static void tc_written(int piece) {
    if (tc_pieces[piece].unfenced == threadIdx.x + 1) return;
    tc_pieces[piece].unfenced = threadIdx.x + 1;
    tc_unfenced[threadIdx.x].push_back(piece);
}
static void tc_check_unread(int piece) {
    if (tc_pieces[piece].read) tc_error = "shared memory is written that products under way read";
}
static void tc_shared_store(const void *to, size_t bytes) {
    auto [first, last] = tc_pieces_of(to, bytes);
    for (int piece = first; piece <= last; piece++) {
        tc_check_unread(piece);
        tc_written(piece);
    }
}
static void tc_copy_begins(const void *to, size_t bytes) {
    auto [first, last] = tc_pieces_of(to, bytes);
    for (int piece = first; piece <= last; piece++) {
        tc_check_unread(piece);
        tc_pieces[piece].coming++;
    }
}
/* `written`: by this thread, which has to fence it. */
static void tc_copy_ends(const void *to, size_t bytes, bool written) {
    auto [first, last] = tc_pieces_of(to, bytes);
    for (int piece = first; piece <= last; piece++) {
        tc_pieces[piece].coming--;
        if (written)
            tc_written(piece);
        else
            tc_pieces[piece].unfenced = 0;
    }
}

/* N elements, from or to memory at a multiple of their bytes. */
template <typename T, int N> struct alignas(sizeof(T) * N) tc_row {
    T at[N];
};
static void tc_aligned(const void *where, size_t bytes) {
    if ((uintptr_t)where % bytes) tc_error = "a thread moves bytes at once where they do not begin at a multiple of them";
}
template <int N, typename T> TENSORC_DEVICE void tc_store(void *to, const T *from) {
    tc_aligned(to, sizeof(T) * N);
    TENSORC_WRITES(to, sizeof(T) * N);
    tc_shared_store(to, sizeof(T) * N);
    memcpy(to, from, sizeof(T) * N);
}
template <int N, typename T> TENSORC_DEVICE void tc_load(T *to, const void *from) {
    tc_aligned(from, sizeof(T) * N);
    TENSORC_READS(from, sizeof(T) * N);
    memcpy(to, from, sizeof(T) * N);
}
template <int N, typename T> TENSORC_DEVICE void tc_stream(T *to, const void *from) {
    tc_load<N>(to, from);
}

template <uint32_t mask> TENSORC_DEVICE uint32_t tc_field(uint32_t word, uint32_t bits) {
    return (word & mask) | bits;
}

/* Whether all other blocks have come here before this one, which then sees what they wrote. Leaves the counter at 0. */
TENSORC_DEVICE int tc_is_last(int *counter, int blocks) {
    static int last;
    __syncthreads();
    if (threadIdx.x == 0) {
        last = (*counter)++ == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}


/* Tensor cores, and copies to shared memory that go on by themselves. */

template <typename T> TENSORC_DEVICE T tc_load_if(const T *from, bool inside) {
    TENSORC_READS(from, inside ? sizeof(T) : 0);
    return inside ? *from : T(0);
}

template <typename T> TENSORC_DEVICE void tc_load_shared_cache(T *to, const T *from) {
    tc_load<4>(to, from);
}

template <int N, int THREADS, typename T> TENSORC_DEVICE void tc_add_parts(T *sums, const T *from, int parts) {
    for (int i = 0; i < N; i++) sums[i] = 0;
    for (; parts > 0; parts--, from += N * THREADS) {
        for (int i = 0; i < N; i += 4) {
            T found[4];
            tc_load_shared_cache(found, from + i * THREADS);
            for (int j = 0; j < 4; j++) sums[i + j] += found[j];
        }
    }
}

/* Copies that go on by themselves end when they are waited for in even blocks, and at once in odd ones: who reads too
   early sees it in the first, who writes too early in the others. */
struct tc_copy {
    void *to;
    const void *from;
    bool valid;
    int group, bytes;
};
struct tc_copies {
    int block, group;
    std::vector<tc_copy> waiting;
};
static std::vector<tc_copies> tc_copying(1024, tc_copies{-1, 0, {}});

static tc_copies &tc_my_copies() {
    tc_copies &mine = tc_copying[threadIdx.x];
    if (mine.block != blockIdx.x) mine = tc_copies{blockIdx.x, 0, {}};
    return mine;
}

static void tc_copy_now(const tc_copy &copy) {
    if ((uintptr_t)copy.to % copy.bytes || (copy.valid && (uintptr_t)copy.from % copy.bytes)) abort();
    if (copy.valid)
        memcpy(copy.to, copy.from, copy.bytes);
    else
        memset(copy.to, 0, copy.bytes);
}

template <int N> TENSORC_DEVICE void tc_copy_async(void *to, const void *from, bool valid) {
    TENSORC_READS(from, valid ? N : 0);
    TENSORC_WRITES(to, N);
    tc_copies &mine = tc_my_copies();
    tc_copy copy{to, from, valid, mine.group, N};
    tc_copy_begins(to, N);
    if (blockIdx.x % 2) tc_copy_now(copy);
    mine.waiting.push_back(copy);
}

TENSORC_DEVICE void tc_copies_commit() {
    tc_my_copies().group++;
}

template <int N> TENSORC_DEVICE void tc_copies_wait() {
    tc_copies &mine = tc_my_copies();
    std::vector<tc_copy> rest;
    for (const tc_copy &copy : mine.waiting) {
        if (copy.group < mine.group - N) {
            if (blockIdx.x % 2 == 0) tc_copy_now(copy);
            tc_copy_ends(copy.to, copy.bytes, true);
        } else {
            rest.push_back(copy);
        }
    }
    mine.waiting = rest;
}

static float tc_widened(uint16_t bits, const half *) {
    half x;
    x.bits = bits;
    return x;
}
static float tc_widened(uint16_t bits, const uint16_t *) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
static uint16_t tc_narrowed(float x, const half *) {
    return half(x).bits;
}
static uint16_t tc_narrowed(float x, const uint16_t *) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <typename T> TENSORC_DEVICE void tc_narrow(uint32_t *to, const float *from, bool valid) {
    const T *type = nullptr;
    if (valid && (uintptr_t)from % 16) abort();
    TENSORC_READS(from, valid ? 16 : 0);
    TENSORC_READS(from + 4, valid ? 16 : 0);
    for (int i = 0; i < 4; i++) {
        float low = valid ? from[2 * i] : 0, high = valid ? from[2 * i + 1] : 0;
        to[i] = tc_narrowed(low, type) | (uint32_t)tc_narrowed(high, type) << 16;
    }
}

struct tc_lane {
    void *to;
    const void *a, *b;
};

static void tc_ldmatrix_of(uint32_t *to, const void *row, bool transposed) {
    if ((uintptr_t)row % 16) abort();
    tc_lane mine{to, row, nullptr};
    tc_warp(&mine, [=](void **given) {
        for (int matrix = 0; matrix < 4; matrix++) {
            int banks = 0;
            for (int r = 0; r < 8; r++) banks |= 1 << (uintptr_t)((tc_lane *)given[8 * matrix + r])->a / 16 % 8;
            if (banks != 0xff) tc_error = "two rows of a matrix lie in the same banks of shared memory";
        }
        for (int lane = 0; lane < 32; lane++) {
            for (int matrix = 0; matrix < 4; matrix++) {
                uint32_t word = 0;
                for (int i = 0; i < 2; i++) {
                    int r = lane / 4, c = 2 * (lane % 4) + i;
                    if (transposed) std::swap(r, c);
                    word |= (uint32_t)((const uint16_t *)((tc_lane *)given[8 * matrix + r])->a)[c] << 16 * i;
                }
                ((uint32_t *)((tc_lane *)given[lane])->to)[matrix] = word;
            }
        }
    });
}

TENSORC_DEVICE void tc_ldmatrix(uint32_t *to, const void *row) {
    tc_ldmatrix_of(to, row, false);
}
TENSORC_DEVICE void tc_ldmatrix_transposed(uint32_t *to, const void *row) {
    tc_ldmatrix_of(to, row, true);
}

/* Elements `each` to a word of a fragment, as `a_of` and `b_of` (word, number in it) have them. */
template <typename S, typename A, typename B>
static void tc_mma_of(S *sums, const uint32_t *a, const uint32_t *b, int each, A a_of, B b_of) {
    tc_lane mine{sums, a, b};
    tc_warp(&mine, [=](void **given) {
        for (int lane = 0; lane < 32; lane++) {
            S *to = (S *)((tc_lane *)given[lane])->to;
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
                S sum = to[i];
                for (int k = 0; k < 8 * each; k++) {
                    int word = k / each, number = k % each;
                    const uint32_t *x = (const uint32_t *)((tc_lane *)given[row % 8 * 4 + word % 4])->a;
                    const uint32_t *y = (const uint32_t *)((tc_lane *)given[column * 4 + word % 4])->b;
                    sum += a_of(x[word / 4 * 2 + row / 8], number) * b_of(y[word / 4], number);
                }
                to[i] = sum;
            }
        }
    });
}

template <typename T> static void tc_mma_16(float *sums, const uint32_t *a, const uint32_t *b) {
    auto element = [](uint32_t word, int i) { return tc_widened((uint16_t)(word >> 16 * i), (const T *)nullptr); };
    tc_mma_of(sums, a, b, 2, element, element);
}
TENSORC_DEVICE void tc_mma_float16(float *sums, const uint32_t *a, const uint32_t *b) {
    tc_mma_16<half>(sums, a, b);
}
TENSORC_DEVICE void tc_mma_bfloat16(float *sums, const uint32_t *a, const uint32_t *b) {
    tc_mma_16<uint16_t>(sums, a, b);
}
TENSORC_DEVICE void tc_mma_float32(float *sums, const uint32_t *a, const uint32_t *b) {
    auto element = [](uint32_t word, int) {
        word = (word + 0x1000) & ~0x1fffu; /* to 10 bits of fraction, halves away from zero */
        float value;
        memcpy(&value, &word, 4);
        return value;
    };
    tc_mma_of(sums, a, b, 1, element, element);
}
TENSORC_DEVICE void tc_mma_uint8(int *sums, const uint32_t *a, const uint32_t *b) {
    tc_mma_of(
        sums, a, b, 4, [](uint32_t word, int i) { return (int)(uint8_t)(word >> 8 * i); },
        [](uint32_t word, int i) { return (int)(int8_t)(word >> 8 * i); });
}

template <int N, typename T> TENSORC_DEVICE void tc_gather_row(T *to, const T *from) {
    for (int i = 0; i < 2 * N; i++) to[i] = from[i / 2 * 4 + i % 2];
    for (int apart = 1; apart < N; apart *= 2) {
        bool second = threadIdx.x & apart;
        for (int i = 0; i < 2 * N; i++) {
            if (i / 2 & apart) continue;
            T *mine = to + i, *other = to + i + 2 * apart;
            T got = tc_shuffle_xor(second ? *mine : *other, apart);
            *mine = second ? got : *mine;
            *other = second ? *other : got;
        }
    }
}

template <int N> TENSORC_DEVICE void tc_add_lanes(float *sums) {
    tc_warp(sums, [](void **given) {
        for (int i = 0; i < N; i++) {
            for (int apart = 16; apart; apart /= 2) {
                float added[32];
                for (int lane = 0; lane < 32; lane++) added[lane] = ((float *)given[lane ^ apart])[i];
                for (int lane = 0; lane < 32; lane++) ((float *)given[lane])[i] += added[lane];
            }
        }
    });
}

/* Attention. */

struct tc_number {
    float given, result;
};

template <int N, typename F> static float tc_lanes(float x, F join) {
    tc_number mine{x, x};
    tc_warp(&mine, [=](void **given) {
        for (int lane = 0; lane < 32; lane++) {
            float all = ((tc_number *)given[lane / N * N])->given;
            for (int i = 1; i < N; i++) all = join(all, ((tc_number *)given[lane / N * N + i])->given);
            ((tc_number *)given[lane])->result = all;
        }
    });
    return mine.result;
}
template <int N> TENSORC_DEVICE float tc_lanes_max(float x) {
    return tc_lanes<N>(x, [](float a, float b) { return fmaxf(a, b); });
}
template <int N> TENSORC_DEVICE float tc_lanes_sum(float x) {
    return tc_lanes<N>(x, [](float a, float b) { return a + b; });
}

TENSORC_DEVICE void tc_warp_sync() {
    tc_warp(nullptr, [](void **) {});
}

TENSORC_DEVICE float tc_exp2(float x) {
    return x < -126 ? 0 : exp2f(x);
}

template <typename T> TENSORC_DEVICE uint32_t tc_two(float low, float high) {
    return tc_narrowed(low, (const T *)nullptr) | (uint32_t)tc_narrowed(high, (const T *)nullptr) << 16;
}
