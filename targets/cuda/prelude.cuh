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

