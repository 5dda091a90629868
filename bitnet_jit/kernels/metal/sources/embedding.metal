// Rows of token ids: table (N, row_numbers) of numbers, or of bytes with four codes each, times a scale -> y (M, K) of Y.
//
// A thread has a number. SCALE: 0 none, 1 of the tensor, 2 of a row, 3 of a group of inputs; an id outside of the table
// gives NaN. sizes: N, K, row_numbers, inputs of a group, groups of a row.
const int k = int(threadgroup_position_in_grid.y) * (32 * SIMDGROUPS) + int(thread_index_in_threadgroup);
const long row = long(threadgroup_position_in_grid.x), token = long(ids[row]);
if (k < sizes[1]) {
  float number = as_type<float>(0x7fc00000u);
  if (token >= 0 && token < sizes[0]) {
    const float stored = float(table[token * sizes[2] + (PACKED ? k / 4 : k)]);
    number = PACKED ? float((int(stored) >> (2 * (k % 4)) & 3) - 1) : stored;
    if (SCALE == 1) number = mul_rn(number, float(w_scale[0]));
    if (SCALE == 2) number = mul_rn(number, float(w_scale[token]));
    if (SCALE == 3) number = mul_rn(number, float(w_scale[token * sizes[4] + k / sizes[3]]));
  }
  y[row * sizes[1] + k] = Y(number);
}
