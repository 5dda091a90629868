// Codes and scale of each row: x (M, K) -> x_q (M, padded), whose last numbers are 0, and x_scale (M,).
//
// A threadgroup has a row, or a group of inputs of one; sizes: K of a row, inputs of a group, numbers of a row of x_q,
// groups of a row.
SHARED(uint, shared, SIMDGROUPS);
const int thread_ = int(thread_index_in_threadgroup), lane = int(thread_index_in_simdgroup);
const int row = int(threadgroup_position_in_grid.y), group = int(threadgroup_position_in_grid.x);
const int first = group * sizes[1], last = min(first + sizes[1], sizes[0]);
const int end = group == sizes[3] - 1 ? sizes[2] : last;
const long x_row = long(row) * sizes[0], q_row = long(row) * sizes[2];
uint largest = 0;
for (int k = first + thread_; k < last; k += 32 * SIMDGROUPS) largest = max(largest, magnitude(float(x[x_row + k])));
largest = largest_of_all<SIMDGROUPS>(largest, shared, int(simdgroup_index_in_threadgroup), lane);
const Quantizer q = quantizer_of(largest);
for (int k = first + thread_; k < end; k += 32 * SIMDGROUPS)
  x_q[q_row + k] = CODE(k < last ? q.code(float(x[x_row + k])) : 0.0f);
if (thread_ == 0) x_scale[row * sizes[3] + group] = q.scale;
