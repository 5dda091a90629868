// Metal's vocabulary in CUDA, as far as the sources use it; names of memory are taken out of them before.
#define FUNCTION static __device__ __forceinline__
#define SHARED(type, name, count) __shared__ type name[count]
#define BARRIER() __syncthreads()
#define SIMD_BARRIER() __syncwarp()

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

// Matrices of 8 x 8 that a warp holds, two numbers a thread, as mma's operands have them: lane 4 g + t has
// left[g][2 t + i], right[2 t + i][g] and sums[g][2 t + i].
template <typename T>
struct Left {
  T at[2];
};
template <typename T>
struct Right {
  T at[2];
};
struct Sums {
  float at[2];
};

FUNCTION Sums no_sums() { return {{0.0f, 0.0f}}; }
FUNCTION int matrix_row() { return int(threadIdx.x & 31) / 4; }
FUNCTION int matrix_column() { return int(threadIdx.x & 3) * 2; }

template <typename T>
FUNCTION void read_left(Left<T>& left, const T* from, int stride) {
  for (int i = 0; i < 2; i++) left.at[i] = from[matrix_row() * stride + matrix_column() + i];
}
template <typename T>
FUNCTION void read_right(Right<T>& right, const T* from, int stride) {
  for (int i = 0; i < 2; i++) right.at[i] = from[matrix_row() * stride + matrix_column() + i];
}
FUNCTION void write_sums(Sums& sums, float* to) {
  for (int i = 0; i < 2; i++) to[matrix_row() * 8 + matrix_column() + i] = sums.at[i];
}

// The matrix units multiply 16 x 8 by 8 x 8: the lower half of the left operand is zeros.
FUNCTION void multiply_add(Sums& sums, Left<half>& left, Right<half>& right) {
  float none[2] = {0.0f, 0.0f};
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums.at[0]), "+f"(sums.at[1]), "+f"(none[0]), "+f"(none[1])
      : "r"(as_type<uint>(left)), "r"(0), "r"(as_type<uint>(right)));
}
FUNCTION void multiply_add(Sums& sums, Left<bfloat>& left, Right<bfloat>& right) {
  float none[2] = {0.0f, 0.0f};
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums.at[0]), "+f"(sums.at[1]), "+f"(none[0]), "+f"(none[1])
      : "r"(as_type<uint>(left)), "r"(0), "r"(as_type<uint>(right)));
}
// float32 has no matrix unit that keeps all its bits
FUNCTION void multiply_add(Sums& sums, Left<float>& left, Right<float>& right) {
  for (int k = 0; k < 8; k++) {
    const float a = __shfl_sync(0xffffffffu, left.at[k & 1], matrix_row() * 4 + k / 2);
    for (int i = 0; i < 2; i++)
      sums.at[i] += a * __shfl_sync(0xffffffffu, right.at[k & 1], (matrix_column() + i) * 4 + k / 2);
  }
}
