/* CUDA C on a CPU: what `prelude.cuh` is to a GPU, for g++. A block's threads are fibers that take turns where they wait
   for each other; blocks run one after the other. For tests: it is exact, and slow. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <utility>
#include <vector>

typedef unsigned char uchar;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define TENSORC_DEVICE static inline

using std::max;
using std::min;

#define CUDART_INF_F (__builtin_inff())
#define CUDART_NAN_F (__builtin_nanf(""))
#define CUDART_INF (__builtin_inf())
#define CUDART_NAN (__builtin_nan(""))

struct half {
    uint16_t bits;
    half() = default;
    template <typename T> half(T x) : bits(_cvtss_sh((float)x, _MM_FROUND_TO_NEAREST_INT)) {}
    operator float() const { return _cvtsh_ss(bits); }
};
#define __float2half_rn(x) half(x)
#define __half2float(x) ((float)(x))

/* Threads ------------------------------------------------------------------------------------------------- */

struct tc_index {
    int x;
};
static tc_index threadIdx, blockIdx;

static const size_t tc_stack = 256 << 10;

/* Who waits goes on when the number at `gate` is no longer what it was. */
struct tc_fiber {
    ucontext_t context;
    void *stack;
    const int *gate;
    int seen;
    bool done;
};

/* Threads that do something together: how many are left, how many have arrived, and how often all had. */
struct tc_team {
    int members, arrived, turns;
    void *given[1024];
};

static std::vector<tc_fiber> tc_fibers;
static ucontext_t tc_scheduler;
static int tc_current;
static tc_team tc_block, tc_warps[32];
static void (*tc_entry)();
static const char *tc_error;
static unsigned char *tc_dynamic_shared;

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

static void tc_one_block(int threads) {
    if ((int)tc_fibers.size() < threads) tc_fibers.resize(threads);
    tc_block = tc_team{threads, 0, 0, {}};
    for (int first = 0; first < threads; first += 32) {
        tc_warps[first / 32] = tc_team{std::min(32, threads - first), 0, 0, {}};
    }
    for (int i = 0; i < threads; i++) {
        tc_fiber &fiber = tc_fibers[i];
        if (!fiber.stack) fiber.stack = malloc(tc_stack); /* memory is taken where it is touched */
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = tc_stack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, tc_run, 0);
        fiber.done = false;
        fiber.gate = nullptr;
    }
    for (int left = threads; left && !tc_error;) {
        bool moved = false;
        for (int i = 0; i < threads && !tc_error; i++) {
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
    tc_dynamic_shared = (unsigned char *)aligned_alloc(128, (shared + 127) / 128 * 128 + 128);
    for (int block = 0; block < blocks && !tc_error; block++) {
        blockIdx.x = block;
        memset(tc_dynamic_shared, 0xff, shared); /* nan to every float type, until it is written */
        tc_one_block(threads);
    }
    free(tc_dynamic_shared);
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

template <typename T, int N> struct alignas(sizeof(T) * N) tc_pack {
    T x[N];
};

/* N elements, from or to memory at a multiple of their bytes. */
template <int N, typename T> TENSORC_DEVICE void tc_load(T *to, const T *from) {
    tc_pack<T, N> pack = *(const tc_pack<T, N> *)from;
    for (int i = 0; i < N; i++) to[i] = pack.x[i];
}

template <int N, typename T> TENSORC_DEVICE void tc_store(T *to, const T *from) {
    tc_pack<T, N> pack;
    for (int i = 0; i < N; i++) pack.x[i] = from[i];
    *(tc_pack<T, N> *)to = pack;
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

