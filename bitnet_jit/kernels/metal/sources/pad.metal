// Rows filled up with zeros: x (M, K) -> padded (M, more); sizes: K, numbers of a row of `padded`.
const long row = long(threadgroup_position_in_grid.y);
const int k = int(threadgroup_position_in_grid.x) * (32 * SIMDGROUPS) + int(thread_index_in_threadgroup);
if (k < sizes[1]) padded[row * sizes[1] + k] = CODE(k < sizes[0] ? float(x[row * sizes[0] + k]) : 0.0f);
