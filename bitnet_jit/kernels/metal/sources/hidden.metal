// Hidden states as codes of 15 bits, q = 128 high + low: x (M, K) -> codes (2 M, K) of halves, two rows of each, and
// x_scale (M,). A threadgroup has a row. sizes: K.
SHARED(uint, maxima, SIMDGROUPS);
const int thread_ = int(thread_index_in_threadgroup), lane = int(thread_index_in_simdgroup);
const int row = int(threadgroup_position_in_grid.x), size = sizes[0];
const long from = long(row) * size;
const auto values = values_of<PLAIN, float, HELD, 32 * SIMDGROUPS>(x + from, x + from, thread_, size);
uint largest = 0;
for (int i = 0; i < values.count; i++) largest = max(largest, magnitude(values.at(i)));
largest = largest_of_all<SIMDGROUPS>(largest, maxima, int(simdgroup_index_in_threadgroup), lane);
const Quantizer q = quantizer_of(largest, 16256.0f);
for (int i = 0; i < values.count; i++) {
  if (!values.inside(i)) continue;
  const int code = q.bad ? 0 : int(rint(mul_rn(values.at(i), q.inverse))), high = (code + 64) >> 7;
  codes[2 * from + values.place(i)] = half(float(high));
  codes[2 * from + size + values.place(i)] = half(float(code - 128 * high));
}
if (thread_ == 0) x_scale[row] = q.scale;
