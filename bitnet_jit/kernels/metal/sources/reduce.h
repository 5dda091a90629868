// Sums and maxima over a threadgroup; `shared` has one place per simdgroup.

// Return the largest number of all threads.
template <int SIMDGROUPS>
FUNCTION uint largest_of_all(uint mine, threadgroup uint* shared, int simdgroup, int lane) {
  mine = simd_max(mine);
  if (SIMDGROUPS == 1) return mine;
  if (lane == 0) shared[simdgroup] = mine;
  BARRIER();
  for (int s = 0; s < SIMDGROUPS; s++) mine = max(mine, shared[s]);
  BARRIER();
  return mine;
}

// Return the sum of all threads' numbers, the same for each: of a simdgroup first, then of these in order.
template <int SIMDGROUPS>
FUNCTION float sum_of_all(float mine, threadgroup float* shared, int simdgroup, int lane) {
  mine = simd_sum(mine);
  if (SIMDGROUPS == 1) return mine;
  if (lane == 0) shared[simdgroup] = mine;
  BARRIER();
  float sum = shared[0];
  for (int s = 1; s < SIMDGROUPS; s++) sum = add_rn(sum, shared[s]);
  BARRIER();
  return sum;
}
