// y of few rows: each simdgroup has OUTS outputs by ROWS rows, and its lanes share K, WORDS words at a time.
//
// x (M, 16 * row_words), w (N, row_words) words; sizes: M, N, row_words, words of a group, groups of a row. Where
// QUANTIZES, each threadgroup makes the codes of x itself: their absolute maximum first, then as they are read.
typedef Way<WAY>::Dot Dot;
const int lane = int(thread_index_in_simdgroup);
const int rows = sizes[0], outputs = sizes[1], row_words = sizes[2], group_words = sizes[3], groups = sizes[4];
const int n0 = (int(threadgroup_position_in_grid.x) * SIMDGROUPS + int(simdgroup_index_in_threadgroup)) * OUTS;
const int m0 = int(threadgroup_position_in_grid.y) * ROWS;
const device uint* words = (const device uint*)w;
SHARED(uint, shared, SIMDGROUPS);
Total<SCALE == 3, Dot::Sum>::Type sums[ROWS][OUTS];
for (int m = 0; m < ROWS; m++)
  for (int o = 0; o < OUTS; o++) sums[m][o] = 0;

Quantizer quantizers[ROWS];
if (QUANTIZES) {
  for (int m = 0; m < ROWS; m++) {
    const auto x_row = x + long(min(m0 + m, rows - 1)) * row_words * 16;
    uint largest = 0;
    for (int k = int(thread_index_in_threadgroup) * 4; k < row_words * 16; k += 128 * SIMDGROUPS)
      for (int i = 0; i < 4; i++) largest = max(largest, magnitude(float(((const device Run<X, 4>*)(x_row + k))->at[i])));
    quantizers[m] = quantizer_of(largest_of_all<SIMDGROUPS>(largest, shared, int(simdgroup_index_in_threadgroup), lane));
  }
}

for (int first = lane * WORDS; first < row_words; first += 32 * WORDS) {
  uint codes[OUTS][WORDS];
  for (int o = 0; o < OUTS; o++) {
    const auto run = (const device Run<uint, WORDS>*)(words + long(min(n0 + o, outputs - 1)) * row_words + first);
    for (int v = 0; v < WORDS; v++) codes[o][v] = run->at[v];
  }
  for (int v = 0; v < WORDS; v++) {
    Dot runs[ROWS];
    for (int m = 0; m < ROWS; m++) {
      const auto inputs = x + (long(min(m0 + m, rows - 1)) * row_words + first + v) * 16;
      if (QUANTIZES) {
        float made[16];
        read_sixteen(inputs, made);
        for (int i = 0; i < 16; i++) made[i] = quantizers[m].code(made[i]);
        runs[m].set(made);
      } else {
        runs[m].load((const device CODE*)inputs);
      }
    }
    const int group = SCALE == 3 ? min((first + v) / group_words, groups - 1) : 0;  // padding has the last one
    for (int o = 0; o < OUTS; o++) {
      const Dot::Weights weights = Dot::decode(codes[o][v]);
      const float scale = SCALE == 3 ? float(w_scale[long(min(n0 + o, outputs - 1)) * groups + group]) : 1.0f;
      for (int m = 0; m < ROWS; m++) {
        const Dot::Sum sum = runs[m].dot(weights);
        if (SCALE == 3) {
          const float by_x = X_BY_GROUP ? float(x_scale[min(m0 + m, rows - 1) * groups + group]) : 1.0f;
          sums[m][o] += float(sum) * (by_x * scale);
        } else {
          sums[m][o] += sum;
        }
      }
    }
  }
}

for (int m = 0; m < ROWS; m++)
  for (int o = 0; o < OUTS; o++) {
    const auto sum = simd_sum(sums[m][o]);
    const int row = m0 + m, n = n0 + o;
    if (lane == 0 && row < rows && n < outputs) {
      const float by_row = QUANTIZES ? quantizers[m].scale : HAS_X_SCALE ? float(x_scale[row]) : 1.0f;
      const float by_output = SCALE == 1 ? float(w_scale[0]) : SCALE == 2 ? float(w_scale[n]) : 1.0f;
      const long place = long(row) * outputs + n;
      if (SCALE == 0)
        y[place] = Y(sum);
      else
        y[place] = with_bias<HAS_BIAS, Y>(mul_rn(float(sum), mul_rn(by_row, by_output)), bias, n);
    }
  }
