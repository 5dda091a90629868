// Rotations of runs of 2^LOG features: x (M, K) -> y (M, K) of Y, in stages of the distances 1, 2, 4, ... A thread has PER
// features side by side, so the first stages stay in it, the next in its simdgroup. signs (K,). sizes: M, K.
constexpr int THREADS = 32 * SIMDGROUPS, SHARING = (1 << LOG) / PER;  // SHARING threads have a run
SHARED(float, shared, SHARING > 32 ? PER * THREADS : 1);
const int thread_ = int(thread_index_in_threadgroup), lane = int(thread_index_in_simdgroup);
const long first = (long(threadgroup_position_in_grid.x) * THREADS + thread_) * PER;
const bool inside = first < long(sizes[0]) * sizes[1];
const int column = int(first % sizes[1]);
float numbers[PER];
for (int j = 0; j < PER; j++) {
  numbers[j] = inside ? float(x[first + j]) : 0.0f;
  if (SIGNED && !INVERSE) numbers[j] = mul_rn(numbers[j], float(signs[column + j]));
}
for (int distance = 1; distance < PER; distance *= 2)
  for (int j = 0; j < PER; j++) {
    if (j & distance) continue;
    const float a = numbers[j], b = numbers[j + distance];
    numbers[j] = add_rn(a, b);
    numbers[j + distance] = add_rn(a, -b);
  }
for (int mask = 1; mask < min(32, SHARING); mask *= 2)
  for (int j = 0; j < PER; j++) {
    const float other = simd_shuffle_xor(numbers[j], mask);
    numbers[j] = lane & mask ? add_rn(other, -numbers[j]) : add_rn(numbers[j], other);
  }
for (int mask = 32; mask < SHARING; mask *= 2) {
  for (int j = 0; j < PER; j++) shared[j * THREADS + thread_] = numbers[j];
  BARRIER();
  for (int j = 0; j < PER; j++) {
    const float other = shared[j * THREADS + (thread_ ^ mask)];
    numbers[j] = thread_ & mask ? add_rn(other, -numbers[j]) : add_rn(numbers[j], other);
  }
  BARRIER();
}
const float scale = (LOG % 2 ? 0.70710678118654752f : 1.0f) / float(1 << (LOG / 2));  // 2^(-LOG / 2)
for (int j = 0; j < PER && inside; j++) {
  const float number = mul_rn(numbers[j], scale);
  y[first + j] = Y(SIGNED && INVERSE ? mul_rn(number, float(signs[column + j])) : number);
}
