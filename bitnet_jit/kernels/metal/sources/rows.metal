// A gate or a sum, a norm, and codes with their scale or floats: x (M, K) -> y (M, stride), whose last numbers are 0.
//
// A threadgroup has a row, or a group of inputs of one. x and other (M, K); weight (K,); eps (1,); total (M, K) of X;
// x_scale (M, groups). sizes: K, inputs of a group, stride, groups of a row.
SHARED(float, sums, SIMDGROUPS);
SHARED(uint, maxima, SIMDGROUPS);
const int thread_ = int(thread_index_in_threadgroup), lane = int(thread_index_in_simdgroup);
const int simdgroup = int(simdgroup_index_in_threadgroup);
const int row = int(threadgroup_position_in_grid.x), group = int(threadgroup_position_in_grid.y);
const int begin = group * sizes[1], size = min(sizes[1], sizes[0] - begin);
const int end = group == sizes[3] - 1 ? sizes[2] - begin : size;
const long from = long(row) * sizes[0] + begin, to = long(row) * sizes[2] + begin;
const auto values = values_of<GATE, X, HELD, 32 * SIMDGROUPS>(x + from, other + from, thread_, size);

float factor = 1.0f;
if (NORM) {
  float squares = 0.0f;
  for (int i = 0; i < values.count; i++) squares = add_rn(squares, mul_rn(values.at(i), values.at(i)));
  factor = norm_factor(sum_of_all<SIMDGROUPS>(squares, sums, simdgroup, lane), size, float(eps[0]));
}
uint largest = 0;
if (CODES) {
  for (int i = 0; i < values.count; i++) {
    const float by = NORM && values.inside(i) ? float(weight[values.place(i)]) : 1.0f;
    largest = max(largest, magnitude(NORM ? mul_rn(mul_rn(values.at(i), factor), by) : values.at(i)));
  }
  largest = largest_of_all<SIMDGROUPS>(largest, maxima, simdgroup, lane);
}
const Quantizer q = quantizer_of(largest);
for (int i = 0; i < values.count; i++) {
  const int k = values.place(i);
  if (k < size) {
    const float value = values.at(i);
    const float scaled = NORM ? mul_rn(mul_rn(value, factor), float(weight[k])) : value;
    if (TOTAL) total[from + k] = X(value);
    y[to + k] = Y(CODES ? q.code(scaled) : scaled);
  }
}
for (int k = size + thread_; k < end; k += 32 * SIMDGROUPS) y[to + k] = Y(0.0f);
if (CODES && thread_ == 0) x_scale[long(row) * sizes[3] + group] = q.scale;
