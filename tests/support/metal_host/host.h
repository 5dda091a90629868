// Metal's vocabulary on a CPU: the sources of kernels/metal compile against it and run, thread by thread.
//
// Every thread of a threadgroup is a fiber. It runs until it has to wait: at a barrier for its threadgroup, at an
// operation of a simdgroup for the 31 others. Which of those that can run goes on is drawn at random, memory of
// threadgroups begins as garbage, and a wait that some thread never reaches is an error. Built with the sanitizers for
// addresses and undefined behaviour; buffers are as large as they say, to the byte.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef ADDRESS_SPACES  // only to see whether the sources keep them apart, as Metal asks
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#else
#define device
#define constant
#define threadgroup
#endif
#define thread
#define kernel
#define FUNCTION static inline
#define SHARED(type, name, count) threadgroup type* const name = (threadgroup type*)host::shared_memory(__LINE__, sizeof(type) * (count))
#define BARRIER() host::wait_for_threadgroup()
#define SIMD_BARRIER() host::exchange(0, host::SIMD_BARRIER)

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;

struct uint3 {
  uint x, y, z;
};

namespace host {
struct Place {
  uint3 group;
  uint thread_, lane, simdgroup;
};
// What the server provides.
extern "C" {
struct Services {
  Place* (*place)();
  void* (*shared_memory)(int line, size_t bytes);
  void (*wait_for_threadgroup)();
  void* (*exchange)(const void* mine, size_t bytes, int operation);  // slots of 64 bytes of the 32 lanes
};
}
inline Services services;
inline void* shared_memory(int line, size_t bytes) { return services.shared_memory(line, bytes); }
inline void wait_for_threadgroup() { services.wait_for_threadgroup(); }
enum Operation { SHUFFLE = 1, MATRIX = 2, SIMD_BARRIER = 3 };

template <typename T>
struct Lanes {
  const char* slots;
  T of(uint lane) const {
    T value;
    std::memcpy(&value, slots + 64 * (lane & 31), sizeof(T));
    return value;
  }
};
template <typename T>
Lanes<T> exchange(T mine, int operation) {
  static_assert(sizeof(T) <= 64);
  return {(const char*)services.exchange(&mine, sizeof(T), operation)};
}
}  // namespace host

inline uint my_lane() { return host::services.place()->lane; }
#ifndef PLACE_AS_PARAMETERS  // else a kernel has them in its signature
#define threadgroup_position_in_grid (host::services.place()->group)
#define thread_index_in_threadgroup (host::services.place()->thread_)
#define thread_index_in_simdgroup (my_lane())
#define simdgroup_index_in_threadgroup (host::services.place()->simdgroup)
#endif

// Return a float rounded to MANTISSA bits behind the point and EXPONENT bits, half to even.
template <int EXPONENT, int MANTISSA>
uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 31, bias = (1u << (EXPONENT - 1)) - 1, top = (1u << EXPONENT) - 1;
  const uint16_t signed_ = uint16_t(sign << 15);
  if (std::isnan(value)) return uint16_t(signed_ | (top << MANTISSA) | (1u << (MANTISSA - 1)));
  const double least = std::ldexp(1.0, 1 - int(bias) - MANTISSA);  // the smallest step
  const double size = std::fabs(double(value));
  int exponent = 0;
  if (size > 0) std::frexp(size, &exponent);
  const double step = std::fmax(std::ldexp(1.0, exponent - 1 - MANTISSA), least);
  const double whole = std::isinf(size) ? size : std::nearbyint(size / step) * step;
  if (whole >= std::ldexp(1.0, int(top - bias))) return uint16_t(signed_ | (top << MANTISSA));
  if (whole == 0) return signed_;
  std::frexp(whole, &exponent);
  const int field = exponent - 1 + int(bias);
  if (field <= 0) return uint16_t(signed_ | uint16_t(whole / least));
  const double fraction = std::ldexp(whole, 1 - exponent) - 1;
  return uint16_t(signed_ | (uint32_t(field) << MANTISSA) | uint32_t(std::ldexp(fraction, MANTISSA)));
}

template <int EXPONENT, int MANTISSA>
float widened(uint16_t bits) {
  const uint32_t bias = (1u << (EXPONENT - 1)) - 1, top = (1u << EXPONENT) - 1;
  const uint32_t field = (bits >> MANTISSA) & top, fraction = bits & ((1u << MANTISSA) - 1);
  const float sign = bits >> 15 ? -1.0f : 1.0f;
  if (field == top) return fraction ? NAN : sign * INFINITY;
  const double size = field ? std::ldexp(1.0 + std::ldexp(double(fraction), -MANTISSA), int(field) - int(bias))
                            : std::ldexp(double(fraction), 1 - int(bias) - MANTISSA);
  return float(double(sign) * size);
}

template <int EXPONENT, int MANTISSA>
struct Small {
  uint16_t bits;
  Small() = default;
  template <typename T>
  explicit Small(T value) : bits(rounded<EXPONENT, MANTISSA>(float(value))) {}
  operator float() const { return widened<EXPONENT, MANTISSA>(bits); }
  Small operator-(Small other) const { return Small(float(*this) - float(other)); }
  Small operator+(Small other) const { return Small(float(*this) + float(other)); }
  Small operator*(Small other) const { return Small(float(*this) * float(other)); }
};
#ifdef ADDRESS_SPACES
typedef short half;  // types of the language, which can be read from any of them
typedef char16_t bfloat;
#else
typedef Small<5, 10> half;
typedef Small<8, 7> bfloat;
#endif

template <typename To, typename From>
To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float div_rn(float a, float b) { return a / b; }
inline float sqrt_rn(float a) { return std::sqrt(a); }
inline float exp_of(float a) { return std::exp(a); }
inline float rint(float a) { return std::nearbyint(a); }
inline float fabs(float a) { return std::fabs(a); }
inline int dot4(uint a, uint b, int sum) {
  for (int i = 0; i < 4; i++) sum += int(int8_t(a >> (8 * i) & 0xff)) * int(int8_t(b >> (8 * i) & 0xff));
  return sum;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
T simd_shuffle_xor(T value, uint mask) {
  return host::exchange(value, host::SHUFFLE).of(my_lane() ^ mask);
}
template <typename T>
T simd_shuffle(T value, uint lane) {
  return host::exchange(value, host::SHUFFLE).of(lane);
}
template <typename T>
T simd_sum(T value) {
  for (uint mask = 16; mask > 0; mask >>= 1) value = T(value + simd_shuffle_xor(value, mask));
  return value;
}
template <typename T>
T simd_max(T value) {
  for (uint mask = 16; mask > 0; mask >>= 1) value = max(value, simd_shuffle_xor(value, mask));
  return value;
}

// Matrices of 8 x 8: each lane holds two numbers of a row.
template <typename T>
struct Matrix {
  T at[2];
};
template <typename T>
using Left = Matrix<T>;
template <typename T>
using Right = Matrix<T>;
typedef Matrix<float> Sums;

inline int matrix_row() { return int(my_lane()) / 4; }
inline int matrix_column() { return int(my_lane()) % 4 * 2; }
inline Sums no_sums() { return {{0.0f, 0.0f}}; }
template <typename T>
void read_left(Left<T>& left, const threadgroup T* from, int stride) {
  for (int i = 0; i < 2; i++) left.at[i] = from[matrix_row() * stride + matrix_column() + i];
}
template <typename T>
void read_right(Right<T>& right, const threadgroup T* from, int stride) {
  for (int i = 0; i < 2; i++) right.at[i] = from[(matrix_column() + i) * stride + matrix_row()];
}
inline void write_sums(Sums& sums, threadgroup float* to) {
  for (int i = 0; i < 2; i++) to[matrix_row() * 8 + matrix_column() + i] = sums.at[i];
}
template <typename T>
struct Operands {
  T left[2], right[2];
};
template <typename T>
void multiply_add(Sums& sums, Left<T>& left, Right<T>& right) {
  const Operands<T> mine = {{left.at[0], left.at[1]}, {right.at[0], right.at[1]}};
  const auto lanes = host::exchange(mine, host::MATRIX);
  for (int k = 0; k < 8; k++) {
    const float a = float(lanes.of(matrix_row() * 4 + k / 2).left[k % 2]);
    for (int i = 0; i < 2; i++) {
      const int column = matrix_column() + i;
      sums.at[i] += a * float(lanes.of(k * 4 + column / 2).right[column % 2]);
    }
  }
}
