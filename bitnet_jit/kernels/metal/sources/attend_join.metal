// Join the pieces that attend.metal left apart, one after the other; a simdgroup has a head of a token.
//
// maxima and totals (T, HEADS, M), sums (T, HEADS, M, HEAD_DIM), positions (T,), starts (R + 1,) -> y (T, HEADS HEAD_DIM).
// sizes: T, R, M.
const int lane = int(thread_index_in_simdgroup), sequences = sizes[1], pages = sizes[2];
const int unit = int(threadgroup_position_in_grid.x) * SIMDGROUPS + int(simdgroup_index_in_threadgroup);
const int token = min(unit / HEADS, sizes[0] - 1);
const int position = token < starts[sequences] ? positions[token] : -1;
for (int d = lane; unit < sizes[0] * HEADS && d < HEAD_DIM; d += 32) {
  float largest = negative_infinity(), total = 0.0f, acc = 0.0f;
  for (int piece = 0; piece * PAGE <= position; piece++) {
    const long place = long(unit) * pages + piece;
    const Fades f = fades(largest, maxima[place]);
    largest = f.largest;
    total = joined(total, totals[place], f);
    acc = joined(acc, sums[place * HEAD_DIM + d], f);
  }
  y[long(unit) * HEAD_DIM + d] = X(position < 0 ? 0.0f : div_rn(acc, total));
}
