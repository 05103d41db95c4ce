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
