// Metal's vocabulary in CUDA, as far as the sources use it.
#define device
#define constant
#define thread
#define threadgroup
#define FUNCTION static __device__ __forceinline__
#define SHARED(type, name, count) __shared__ type name[count]
#define BARRIER() __syncthreads()

typedef unsigned int uint;
typedef unsigned short ushort;
typedef __half half;
typedef __nv_bfloat16 bfloat;

#define thread_index_in_simdgroup (threadIdx.x & 31)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define thread_index_in_threadgroup (threadIdx.x)
#define threadgroup_position_in_grid blockIdx

// ptxas would make one operation of a product and a sum; these are never joined
FUNCTION float mul_rn(float a, float b) { return __fmul_rn(a, b); }
FUNCTION float add_rn(float a, float b) { return __fadd_rn(a, b); }
FUNCTION float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FUNCTION float div_rn(float a, float b) { return __fdiv_rn(a, b); }
FUNCTION float sqrt_rn(float a) { return __fsqrt_rn(a); }
FUNCTION float exp_of(float a) { return expf(a); }
FUNCTION int dot4(uint a, uint b, int sum) { return __dp4a(int(a), int(b), sum); }

template <typename To, typename From>
FUNCTION To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

template <typename T>
FUNCTION T simd_shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
FUNCTION T simd_shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <typename T>
FUNCTION T simd_sum(T value) {
  for (int mask = 16; mask > 0; mask >>= 1) value = value + simd_shuffle_xor(value, mask);
  return value;
}
template <typename T>
FUNCTION T simd_max(T value) {
  for (int mask = 16; mask > 0; mask >>= 1) {
    const T other = simd_shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}
