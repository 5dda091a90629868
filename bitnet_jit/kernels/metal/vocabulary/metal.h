// Metal as it is, and the few words that the other dialects spell otherwise.
#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
using namespace metal;

// The contract rounds a product and a sum each: no fused multiply-add that is not written as one.
#pragma METAL fp contract(off)
#pragma clang fp contract(off)

#define SHARED(type, name, count) threadgroup type name[count]
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define SIMD_BARRIER() simdgroup_barrier(mem_flags::mem_threadgroup)
#define FUNCTION static inline

FUNCTION float mul_rn(float a, float b) { return a * b; }
FUNCTION float add_rn(float a, float b) { return a + b; }
FUNCTION float fma_rn(float a, float b, float c) { return fma(a, b, c); }
FUNCTION float div_rn(float a, float b) { return a / b; }
FUNCTION float sqrt_rn(float a) { return precise::sqrt(a); }
FUNCTION float exp_of(float a) { return precise::exp(a); }

// Metal has no dot product of bytes.
FUNCTION int dot4(uint a, uint b, int sum) {
  const char4 x = as_type<char4>(a), y = as_type<char4>(b);
  return sum + int(x.x) * int(y.x) + int(x.y) * int(y.y) + int(x.z) * int(y.z) + int(x.w) * int(y.w);
}

// Matrices of 8 x 8 that a simdgroup holds: the left operand of a product, the right one, and float32 sums.
template <typename T>
using Left = simdgroup_matrix<T, 8, 8>;
template <typename T>
using Right = simdgroup_matrix<T, 8, 8>;
typedef simdgroup_matrix<float, 8, 8> Sums;

FUNCTION Sums no_sums() { return make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }

// Read left[m][k] = from[m * stride + k].
template <typename T>
FUNCTION void read_left(thread Left<T>& left, const threadgroup T* from, int stride) {
  simdgroup_load(left, from, ulong(stride));
}

// Read right[k][n] = from[n * stride + k].
template <typename T>
FUNCTION void read_right(thread Right<T>& right, const threadgroup T* from, int stride) {
  simdgroup_load(right, from, ulong(stride), ulong2(0, 0), true);
}

// Write to[8 m + n] = sums[m][n].
FUNCTION void write_sums(thread Sums& sums, threadgroup float* to) { simdgroup_store(sums, to, 8); }

template <typename T>
FUNCTION void multiply_add(thread Sums& sums, thread Left<T>& left, thread Right<T>& right) {
  simdgroup_multiply_accumulate(sums, left, right, sums);
}
