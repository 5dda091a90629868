// Logits: a simdgroup has OUTS rows of the head by ROWS of x, and its lanes share K, WIDTH numbers at a time.
//
// x (PARTS M, K), head (N, K) -> logits (M, N) float32. Codes have two PARTS, high and low, whose sums are whole numbers;
// x_scale (M,), head_scale (N,). The order of a sum depends on K alone. sizes: M, N, K.
constexpr int PARTS = CODES ? 2 : 1;
const int lane = int(thread_index_in_simdgroup), rows = sizes[0], outputs = sizes[1], size = sizes[2];
const int n0 = (int(threadgroup_position_in_grid.x) * SIMDGROUPS + int(simdgroup_index_in_threadgroup)) * OUTS;
const int m0 = int(threadgroup_position_in_grid.y) * ROWS;
float sums[ROWS * PARTS][OUTS];
for (int m = 0; m < ROWS * PARTS; m++)
  for (int o = 0; o < OUTS; o++) sums[m][o] = 0.0f;

for (int k = lane * WIDTH; k < size; k += 32 * WIDTH) {
  float numbers[ROWS * PARTS][WIDTH];
  for (int m = 0; m < ROWS * PARTS; m++)
    for (int i = 0; i < WIDTH; i++) numbers[m][i] = float(x[long(min(m0 * PARTS + m, rows * PARTS - 1)) * size + k + i]);
  for (int o = 0; o < OUTS; o++) {
    const device Run<W, WIDTH>* run = (const device Run<W, WIDTH>*)(head + long(min(n0 + o, outputs - 1)) * size + k);
    for (int i = 0; i < WIDTH; i++) {
      const float weight = float(run->at[i]);
      for (int m = 0; m < ROWS * PARTS; m++) sums[m][o] = fma_rn(weight, numbers[m][i], sums[m][o]);
    }
  }
}

for (int m = 0; m < ROWS; m++)
  for (int o = 0; o < OUTS; o++) {
    const int row = m0 + m, n = n0 + o;
    const bool inside = lane == 0 && row < rows && n < outputs;
    if (CODES) {
      const int high = simd_sum(int(sums[m * PARTS][o])), low = simd_sum(int(sums[m * PARTS + PARTS - 1][o]));
      const float sum = float(long(high) * 128 + low);
      if (inside) logits[long(row) * outputs + n] = mul_rn(sum, mul_rn(float(x_scale[row]), float(head_scale[n])));
    } else {
      const float sum = simd_sum(sums[m][o]);
      if (inside) logits[long(row) * outputs + n] = sum;
    }
  }
