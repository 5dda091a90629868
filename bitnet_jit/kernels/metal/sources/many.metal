// y of many rows, by matrices of 8 x 8: a threadgroup has SM by SN simdgroups, each of TM by TN matrices of y.
//
// x (M, padded), w (N, padded / 16) words; sizes: M, N, padded, inputs of a group, groups of a row. Where groups have
// scales these are multiplied into both operands, which are float32 then; else codes and weights are exact in OP.
const int BM = 8 * TM * SM, BN = 8 * TN * SN, BK = 32, STRIDE = BK + 16 / int(sizeof(OP)), THREADS = 32 * SM * SN;
SHARED(OP, left_tile, BM * STRIDE);
SHARED(OP, right_tile, BN * STRIDE);
SHARED(float, sums_tile, 64 * SM * SN);
const int me = int(thread_index_in_threadgroup), lane = int(thread_index_in_simdgroup);
const int simdgroup = int(simdgroup_index_in_threadgroup), sm = simdgroup / SN, sn = simdgroup % SN;
const int rows = sizes[0], outputs = sizes[1], padded = sizes[2], group_inputs = sizes[3], groups = sizes[4];
const int n0 = int(threadgroup_position_in_grid.x) * BN, m0 = int(threadgroup_position_in_grid.y) * BM;
const device uint* words = (const device uint*)w;
Sums sums[TM][TN];
for (int i = 0; i < TM; i++)
  for (int j = 0; j < TN; j++) sums[i][j] = no_sums();

for (int k0 = 0; k0 < padded; k0 += BK) {
  BARRIER();
  for (int run = me; run < BM * (BK / 4); run += THREADS) {
    const int tile_row = run / (BK / 4), column = run % (BK / 4) * 4, row = min(m0 + tile_row, rows - 1);
    const float by_x = X_BY_GROUP ? float(x_scale[row * groups + min((k0 + column) / group_inputs, groups - 1)]) : 1.0f;
    read_four<X_BY_GROUP>(x + (long(row) * padded + k0 + column), left_tile + tile_row * STRIDE + column, by_x);
  }
  for (int run = me; run < BN * (BK / 16); run += THREADS) {
    const int tile_row = run / (BK / 16), column = run % (BK / 16) * 16, n = min(n0 + tile_row, outputs - 1);
    const int group = min((k0 + column) / group_inputs, groups - 1);
    const float scale = SCALE == 3 ? float(w_scale[long(n) * groups + group]) : 1.0f;
    write_weights(words[long(n) * (padded / 16) + (k0 + column) / 16], right_tile + tile_row * STRIDE + column, scale);
  }
  BARRIER();
  for (int k = 0; k < BK; k += 8) {
    Left<OP> left[TM];
    Right<OP> right[TN];
    for (int i = 0; i < TM; i++) read_left(left[i], left_tile + (8 * (sm * TM + i) * STRIDE + k), STRIDE);
    for (int j = 0; j < TN; j++) read_right(right[j], right_tile + (8 * (sn * TN + j) * STRIDE + k), STRIDE);
    for (int i = 0; i < TM; i++)
      for (int j = 0; j < TN; j++) multiply_add(sums[i][j], left[i], right[j]);
  }
}

for (int i = 0; i < TM; i++)
  for (int j = 0; j < TN; j++) {
    SIMD_BARRIER();
    write_sums(sums[i][j], sums_tile + 64 * simdgroup);
    SIMD_BARRIER();
    for (int e = lane; e < 64; e += 32) {
      const int row = m0 + 8 * (sm * TM + i) + e / 8, n = n0 + 8 * (sn * TN + j) + e % 8;
      if (row < rows && n < outputs) {
        const float sum = sums_tile[64 * simdgroup + e];
        const float by_row = HAS_X_SCALE ? float(x_scale[row]) : 1.0f;
        const float by_output = SCALE == 1 ? float(w_scale[0]) : SCALE == 2 ? float(w_scale[n]) : 1.0f;
        const long place = long(row) * outputs + n;
        if (SCALE == 0)
          y[place] = Y(sum);
        else
          y[place] = with_bias<HAS_BIAS, Y>(mul_rn(sum, mul_rn(by_row, by_output)), bias, n);
      }
    }
  }
