/* What every kernel's text stands on: types of fixed width, half precision, and the device functions that the kernels
   call by name. It includes nothing, so that NVRTC compiles it without a CUDA toolkit. */

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

#define TENSORC_DEVICE static __device__ __forceinline__

/* A float16 in memory; it is computed with as float. */
struct half {
    uint16_t bits;
    half() = default;
    static __device__ __forceinline__ uint16_t from(float x) {
        uint16_t y;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
        return y;
    }
    template <typename T> __device__ __forceinline__ half(T x) : bits(from((float)x)) {}
    __device__ __forceinline__ operator float() const {
        float y;
        asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
        return y;
    }
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

#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000ll)

/* Warps: what threads of a warp tell each other. */

/* What the lane has whose number differs in the bits of `mask`. All lanes of the warp come here. */
template <typename T> TENSORC_DEVICE T tc_shuffle_xor(T x, int mask) {
    if constexpr (sizeof(T) < 4) {
        return (T)__shfl_xor_sync(0xffffffffu, (int)x, mask);
    } else {
        return __shfl_xor_sync(0xffffffffu, x, mask);
    }
}

/* Memory: what a thread moves at once. */

/* N elements, from or to memory at a multiple of their bytes. */
template <typename T, int N> struct alignas(sizeof(T) * N) tc_row {
    T at[N];
};
template <int N, typename T> TENSORC_DEVICE void tc_store(void *to, const T *from) {
    tc_row<T, N> row;
#pragma unroll
    for (int i = 0; i < N; i++) row.at[i] = from[i];
    *(tc_row<T, N> *)to = row;
}
template <int N, typename T> TENSORC_DEVICE void tc_load(T *to, const void *from) {
    tc_row<T, N> row = *(const tc_row<T, N> *)from;
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = row.at[i];
}

/* The same for what is read once and needed later: it is asked for where this stands, which compilers do not change, and
   does not stay in the first-level cache. */
template <int N, typename T> TENSORC_DEVICE void tc_stream(T *to, const void *from) {
    constexpr int bytes = N * sizeof(T);
    static_assert(bytes == 16 || bytes == 8 || bytes == 4 || bytes == 2 || bytes == 1, "what an instruction moves");
    tc_row<T, N> row;
    if constexpr (bytes == 16) {
        uint4 &v = *(uint4 *)&row;
        asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(from));
    } else if constexpr (bytes == 8) {
        uint2 &v = *(uint2 *)&row;
        asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    } else {
        uint32_t v;
        if constexpr (bytes == 4)
            asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(from));
        else if constexpr (bytes == 2)
            asm volatile("ld.global.L1::no_allocate.u16 %0, [%1];" : "=r"(v) : "l"(from));
        else
            asm volatile("ld.global.L1::no_allocate.u8 %0, [%1];" : "=r"(v) : "l"(from));
#pragma unroll
        for (int i = 0; i < N; i++) {
            auto bits = v >> (8 * sizeof(T) * i % 32);
            row.at[i] = *(T *)&bits;
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = row.at[i];
}

/* (word & mask) | bits, by one instruction. */
template <uint32_t mask> TENSORC_DEVICE uint32_t tc_field(uint32_t word, uint32_t bits) {
    uint32_t found;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(found) : "r"(word), "n"(mask), "r"(bits));
    return found;
}

/* Whether all other blocks have come here before this one, which then sees what they wrote. Leaves the counter at 0. */
TENSORC_DEVICE int tc_is_last(int *counter, int blocks) {
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}


/* Tensor cores, and copies to shared memory that go on by themselves. */

/* An input's element, or zero where it is not `inside`: nothing is read then, and no branch is taken. */
TENSORC_DEVICE float tc_load_if(const float *from, bool inside) {
    float x;
    asm("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\nmov.b32 %0, 0;\n@p ld.global.b32 %0, [%1];\n}"
        : "=f"(x)
        : "l"(from), "r"((int)inside));
    return x;
}
TENSORC_DEVICE uint16_t tc_load_if(const uint16_t *from, bool inside) {
    uint16_t x;
    asm("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\nmov.b16 %0, 0;\n@p ld.global.b16 %0, [%1];\n}"
        : "=h"(x)
        : "l"(from), "r"((int)inside));
    return x;
}
TENSORC_DEVICE half tc_load_if(const half *from, bool inside) {
    half x;
    x.bits = tc_load_if(&from->bits, inside);
    return x;
}
TENSORC_DEVICE uint8_t tc_load_if(const uint8_t *from, bool inside) {
    return inside ? *from : 0;
}

/* What other blocks have written in this launch: from the second-level cache, which they share. */
template <typename T> TENSORC_DEVICE void tc_load_shared_cache(T *to, const T *from) {
    static_assert(sizeof(T) == 4, "four words");
    uint32_t word[4];
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "l"(from)
                 : "memory");
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = *(const T *)&word[i];
}

/* sums[N]: what `parts` blocks left, added in that order. Of each there are N numbers of every one of THREADS threads,
   4 of a thread side by side, those of this thread from `from` on. A few are on their way at once, and no more: a
   compiler that unrolls the whole loop keeps all of them until they are added. */
template <int N, int THREADS, typename T> TENSORC_DEVICE void tc_add_parts(T *sums, const T *from, int parts) {
    constexpr int AT_ONCE = N < 32 ? 32 / N : 1;
#pragma unroll
    for (int i = 0; i < N; i++) sums[i] = 0;
#pragma unroll 1
    for (; parts > 0; parts -= AT_ONCE, from += AT_ONCE * N * THREADS) {
        T found[AT_ONCE * N];
#pragma unroll
        for (int i = 0; i < AT_ONCE * N; i += 4) {
            if (i / N < parts) tc_load_shared_cache(found + i, from + i * THREADS);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE * N; i++) {
            if (i / N < parts) sums[i % N] += found[i];
        }
    }
}

TENSORC_DEVICE uint32_t tc_shared(const void *address) {
    return (uint32_t)__cvta_generic_to_shared(address);
}

/* N bytes, 4, 8 or 16, to shared memory, zeros where they are not `valid`: nothing is read then. Those that neighbours
   fetch in one piece do not stay in the first-level cache. */
template <int N> TENSORC_DEVICE void tc_copy_async(void *to, const void *from, bool valid) {
#if __CUDA_ARCH__ >= 800
    if (N == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :
                     : "r"(tc_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :
                     : "r"(tc_shared(to)), "l"(__cvta_generic_to_global(from)), "n"(N), "r"(valid ? N : 0)
                     : "memory");
    }
#else
    tc_row<uint32_t, N / 4> row = {};
    if (valid) row = *(const tc_row<uint32_t, N / 4> *)from;
    *(tc_row<uint32_t, N / 4> *)to = row;
#endif
}

/* The copies since the last call are a group. */
TENSORC_DEVICE void tc_copies_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* All of this thread's groups but the latest N have arrived. */
template <int N> TENSORC_DEVICE void tc_copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
#endif
}

/* Two float32 as 16 bits each, the first in the lower half. */
TENSORC_DEVICE uint32_t tc_pair(float low, float high, const half *) {
#if __CUDA_ARCH__ >= 800
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return half::from(low) | (uint32_t)half::from(high) << 16;
#endif
}
TENSORC_DEVICE uint32_t tc_pair(float low, float high, const uint16_t *) { /* bfloat16 */
#if __CUDA_ARCH__ >= 800
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return 0; /* no kernel of these architectures asks for it */
#endif
}

/* 8 float32 as a row of 8 elements of T, zeros where they are not `valid`. */
template <typename T> TENSORC_DEVICE void tc_narrow(uint32_t *to, const float *from, bool valid) {
    float4 a = make_float4(0, 0, 0, 0), b = a;
    if (valid) a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
    const T *type = nullptr;
    to[0] = tc_pair(a.x, a.y, type), to[1] = tc_pair(a.z, a.w, type);
    to[2] = tc_pair(b.x, b.y, type), to[3] = tc_pair(b.z, b.w, type);
}

/* Four 8x8 matrices of 16 bits from shared memory: lane i says where row i%8 of matrix i/8 is. `to` has of each matrix
   the elements 2*(lane%4) and the next of row lane/4, or of its transpose. */
TENSORC_DEVICE void tc_ldmatrix(uint32_t *to, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(tc_shared(row))
                 : "memory");
}
TENSORC_DEVICE void tc_ldmatrix_transposed(uint32_t *to, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(tc_shared(row))
                 : "memory");
}

/* sums[16, 8] += a[16, K] b[K, 8] of a warp (PTX ISA, "Matrix Fragments"): a lane holds the sums of rows lane/4 and 8
   more, columns 2*(lane%4) and the next; K is 32 bytes. */
TENSORC_DEVICE void tc_mma_float16(float *sums, const uint32_t *a, const uint32_t *b) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int k = 0; k < 2; k++) {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
            "{%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
    }
#endif
}
#if __CUDA_ARCH__ >= 800
TENSORC_DEVICE void tc_mma_bfloat16(float *sums, const uint32_t *a, const uint32_t *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
TENSORC_DEVICE uint32_t tc_tf32(uint32_t bits) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}
TENSORC_DEVICE void tc_mma_float32(float *sums, const uint32_t *a, const uint32_t *b) { /* rounded to tf32 */
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(tc_tf32(a[0])), "r"(tc_tf32(a[1])), "r"(tc_tf32(a[2])), "r"(tc_tf32(a[3])),
          "r"(tc_tf32(b[0])), "r"(tc_tf32(b[1])));
}
TENSORC_DEVICE void tc_mma_uint8(int *sums, const uint32_t *a, const uint32_t *b) { /* by int8 */
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

/* Neighbouring columns of what four lanes have of N fragments' row, 2 or 4: `from[4 * i]` and the next are columns
   2*(lane%4) and the next of fragment i. A lane gets all 8 of fragment lane%4, or, of two fragments, the 4 from
   lane%4/2*4 on of fragment lane%2. */
template <int N, typename T> TENSORC_DEVICE void tc_gather_row(T *to, const T *from) {
#pragma unroll
    for (int i = 0; i < 2 * N; i++) to[i] = from[i / 2 * 4 + i % 2];
#pragma unroll
    for (int apart = 1; apart < N; apart *= 2) {
        bool second = threadIdx.x & apart;
#pragma unroll
        for (int i = 0; i < 2 * N; i++) {
            if (i / 2 & apart) continue;
            T *mine = to + i, *other = to + i + 2 * apart;
            T got = tc_shuffle_xor(second ? *mine : *other, apart);
            *mine = second ? got : *mine;
            *other = second ? *other : got;
        }
    }
}

/* Hopper: barriers in shared memory that copies arrive at, copies of many bytes by one thread, and products of
   warpgroups, four warps, with operands in shared memory. */
#if __CUDA_ARCH__ >= 900

/* A phase of a barrier ends when `arrivals` have come and all bytes that were expected. */
TENSORC_DEVICE void tc_barrier_init(uint64_t *barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(tc_shared(barrier)), "r"(arrivals) : "memory");
}
TENSORC_DEVICE void tc_barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(tc_shared(barrier)) : "memory");
}
/* Arrives, and makes the phase wait for so many bytes. */
TENSORC_DEVICE void tc_barrier_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :
                 : "r"(tc_shared(barrier)), "r"(bytes)
                 : "memory");
}
/* Until the phase of this parity, 0 for the first, has ended. The one before the first counts as one that has. */
TENSORC_DEVICE void tc_barrier_wait(uint64_t *barrier, int parity) {
    /* A loop of C's would have the assembler wait for products that are under way (C7514). */
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\n"
                 "done:\n}"
                 :
                 : "r"(tc_shared(barrier)), "r"(parity)
                 : "memory");
}

/* What this thread has written to shared memory, barriers too, is seen by copies of many bytes and by products of
   warpgroups that others begin after they have heard from this thread. */
TENSORC_DEVICE void tc_async_fence() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Bytes, a multiple of 16, to shared memory; they arrive at the barrier. */
TENSORC_DEVICE void tc_bulk_copy(void *to, const void *from, int bytes, uint64_t *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :
                 : "r"(tc_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(tc_shared(barrier))
                 : "memory");
}

/* The first THREADS threads of a block wait for each other; others do not come here. */
template <int THREADS> TENSORC_DEVICE void tc_sync_first() {
    asm volatile("bar.sync 1, %0;" : : "n"(THREADS) : "memory");
}

/* Products of a warpgroup: tc_wgmma_TYPE<N> adds to d[64, N] the products a[64, K] by b[N, K]; K is 32 bytes. A warp holds
   16 rows of the sums, their eighths of columns one after the other, each as `tc_mma_TYPE` has it. Descriptors say where
   operands are (PTX ISA, "Matrix Descriptor Format"): here, in swizzled rows of 128 bytes. Only sm_90a has these
   instructions; for other architectures the same is done at once, warp by warp. */
TENSORC_DEVICE uint64_t tc_descriptor(const void *place, uint64_t layout) {
    return layout | tc_shared(place) >> 4;
}
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Sums that are in registers may be added to. */
TENSORC_DEVICE void tc_wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* The products since the last call are a group. */
TENSORC_DEVICE void tc_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All groups but the latest N are done with their operands. */
template <int N> TENSORC_DEVICE void tc_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(N) : "memory");
}
/* Registers of each thread of a warpgroup from here on: fewer than before, or more, which others have let go of. */
template <int N> TENSORC_DEVICE void tc_fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(N));
}
template <int N> TENSORC_DEVICE void tc_more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(N));
}
#define TC_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TC_NAMES_64 TC_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TC_NAMES_128 TC_NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TC_SUMS_8(S, i) \
    S(d[i]), S(d[i + 1]), S(d[i + 2]), S(d[i + 3]), S(d[i + 4]), S(d[i + 5]), S(d[i + 6]), S(d[i + 7])
#define TC_SUMS_32(S, i) TC_SUMS_8(S, i), TC_SUMS_8(S, i + 8), TC_SUMS_8(S, i + 16), TC_SUMS_8(S, i + 24)
#define TC_SUMS_64(S, i) TC_SUMS_32(S, i), TC_SUMS_32(S, i + 32)
#define TC_SUMS_128(S, i) TC_SUMS_64(S, i), TC_SUMS_64(S, i + 64)
#define TC_FLOATS(x) "+f"(x)
#define TC_INTS(x) "+r"(x)
#define TC_WGMMA_OF(SHAPE, TYPES, COUNT, A, B, S, MODES) \
    asm volatile("wgmma.mma_async.sync.aligned." SHAPE "." TYPES " {" TC_NAMES_##COUNT "}, %" #A ", %" #B ", 1" MODES ";" \
                 : TC_SUMS_##COUNT(S, 0) \
                 : "l"(a), "l"(b))
#define TC_WGMMA(NAME, SUM, K, TYPES, S, MODES) \
    template <int N> TENSORC_DEVICE void NAME(SUM *d, uint64_t a, uint64_t b) { \
        static_assert(N == 64 || N == 128 || N == 256, "columns of a product"); \
        if constexpr (N == 64) TC_WGMMA_OF("m64n64" K, TYPES, 32, 32, 33, S, MODES); \
        if constexpr (N == 128) TC_WGMMA_OF("m64n128" K, TYPES, 64, 64, 65, S, MODES); \
        if constexpr (N == 256) TC_WGMMA_OF("m64n256" K, TYPES, 128, 128, 129, S, MODES); \
    }
/* Behind the 1 that adds to what is there: nothing is negated or transposed. */
TC_WGMMA(tc_wgmma_float16, float, "k16", "f32.f16.f16", TC_FLOATS, ", 1, 1, 0, 0")
TC_WGMMA(tc_wgmma_bfloat16, float, "k16", "f32.bf16.bf16", TC_FLOATS, ", 1, 1, 0, 0")
TC_WGMMA(tc_wgmma_uint8, int, "k32", "s32.u8.s8", TC_INTS, "")
/* All groups are done: these N sums may be read. */
template <int N> TENSORC_DEVICE void tc_wgmma_done(float *d) {
    tc_wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> TENSORC_DEVICE void tc_wgmma_done(int *d) {
    tc_wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(d[i])::"memory");
}
#else
TENSORC_DEVICE void tc_wgmma_fence() {}
TENSORC_DEVICE void tc_wgmma_commit() {}
template <int N> TENSORC_DEVICE void tc_wgmma_wait() {}
template <int N, typename S> TENSORC_DEVICE void tc_wgmma_done(S *) {}
template <int N> TENSORC_DEVICE void tc_fewer_registers() {}
template <int N> TENSORC_DEVICE void tc_more_registers() {}
TENSORC_DEVICE const void *tc_from_shared(uint32_t address) {
    return (const void *)__cvta_shared_to_generic(address);
}
/* wgmma by mma: begin */
TENSORC_DEVICE const void *tc_swizzled(uint64_t descriptor, int row, int chunk) {
    uint32_t at = (uint32_t)(descriptor & 0x3fff) * 16 + row * 128 + chunk * 16;
    return tc_from_shared(at ^ (at >> 3 & 0x70));
}
#define TC_WGMMA(NAME, MMA, SUM) \
    template <int N> TENSORC_DEVICE void NAME(SUM *d, uint64_t a, uint64_t b) { \
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4; \
        uint32_t rows[4], columns[4]; \
        tc_ldmatrix(rows, tc_swizzled(a, 16 * warp + lane % 16, lane / 16)); \
        _Pragma("unroll") for (int j = 0; j < N / 16; j++) { \
            tc_ldmatrix(columns, tc_swizzled(b, 16 * j + lane / 16 * 8 + lane % 8, lane / 8 % 2)); \
            MMA(d + 8 * j, rows, columns); \
            MMA(d + 8 * j + 4, rows, columns + 2); \
        } \
    }
TC_WGMMA(tc_wgmma_float16, tc_mma_float16, float)
TC_WGMMA(tc_wgmma_bfloat16, tc_mma_bfloat16, float)
TC_WGMMA(tc_wgmma_uint8, tc_mma_uint8, int)
/* wgmma by mma: end */
#endif
#endif

/* Each of N numbers, added over the lanes of a warp: every lane has the sums then, added in one order. */
template <int N> TENSORC_DEVICE void tc_add_lanes(float *sums) {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int apart = 16; apart; apart /= 2) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], apart);
    }
}

/* Attention. */

/* Of N neighbouring lanes, a power of two, the largest number and the sum. */
template <int N> TENSORC_DEVICE float tc_lanes_max(float x) {
#pragma unroll
    for (int apart = N / 2; apart; apart /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, apart));
    return x;
}
template <int N> TENSORC_DEVICE float tc_lanes_sum(float x) {
#pragma unroll
    for (int apart = N / 2; apart; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

/* What the threads of a warp wrote to shared memory is seen by all of it. */
TENSORC_DEVICE void tc_warp_sync() {
    __syncwarp();
}

/* 2^x, to 2 units in the last place; 0 for what is below the smallest normal number. */
TENSORC_DEVICE float tc_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two numbers as T, the first in the lower half. */
template <typename T> TENSORC_DEVICE uint32_t tc_two(float low, float high) {
    return tc_pair(low, high, (const T *)nullptr);
}
