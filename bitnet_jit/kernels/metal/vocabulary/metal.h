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
