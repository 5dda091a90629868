// Attention over pages: the pieces of a token's positions one after the other to y, or apart, for attend_join.metal.
//
// A simdgroup has ROWS heads of a token that share keys and values, and with SPLIT each turns-th piece from its turn on.
// qkv (T, (HEADS + 2 KV) HEAD_DIM), rotary (C, HEAD_DIM), positions (T,), starts (R + 1,), tables (R, M);
// keys (P, KV, HEAD_DIM, PAGE), values (P, KV, PAGE, HEAD_DIM), scales (P, KV, PAGE); y (T, HEADS HEAD_DIM);
// maxima and totals (T, HEADS, M), sums (T, HEADS, M, HEAD_DIM). sizes: T, R, M, turns.
SHARED(float, shared, SIMDGROUPS * ROWS * HEAD_DIM);
constexpr int GROUP = HEADS / KV, TILES = (GROUP + ROWS - 1) / ROWS, PAIRS = (HEAD_DIM + 63) / 64;
const int lane = int(thread_index_in_simdgroup), simdgroup = int(simdgroup_index_in_threadgroup);
const int sequences = sizes[1], pages = sizes[2], turns = sizes[3], units = sizes[0] * KV * TILES;
const int unit = int(threadgroup_position_in_grid.x) * SIMDGROUPS + simdgroup;
const int token = min(unit / (KV * TILES), sizes[0] - 1), kv = unit / TILES % KV;
const int first = unit % TILES * ROWS, rows = unit < units ? min(ROWS, GROUP - first) : 0;
const int head = kv * GROUP + first;
const int sequence = sequence_of(starts, sequences, token, lane);
const int position = rows > 0 && sequence < sequences ? positions[token] : -1;

threadgroup float* queries = shared + simdgroup * ROWS * HEAD_DIM;
float factors[ROWS];
for (int r = 0; r < ROWS; r++) {
  const auto from = qkv + (long(token) * (HEADS + 2 * KV) + head + min(r, max(rows, 1) - 1)) * HEAD_DIM;
  const auto angles = rotary + long(max(position, 0)) * HEAD_DIM;
  factors[r] = div_rn(1.0f, sqrt_rn(float(HEAD_DIM)));
  Quantizer q = quantizer_of(0);
  if (CODES) {
    q = quantizer_of_turned<HEAD_DIM>(from, angles, lane);
    factors[r] = mul_rn(q.scale, factors[r]);
  }
  for (int j = lane; j < HEAD_DIM / 2; j += 32) {
    const Turned t = turned<HEAD_DIM>(from, angles, j);
    queries[r * HEAD_DIM + j] = CODES ? q.code(t.low) : t.low;
    queries[r * HEAD_DIM + j + HEAD_DIM / 2] = CODES ? q.code(t.high) : t.high;
  }
}
BARRIER();

Pieces<ROWS, PAIRS> all, one;
clear(all);
for (int piece = int(threadgroup_position_in_grid.y); piece * PAGE <= position; piece += turns) {
  const long place = long(tables[long(sequence) * pages + piece]) * KV + kv;
  const int count = min(position + 1 - piece * PAGE, int(PAGE));
  const long scales = CODES ? place * PAGE : 0;
  attend_page<CODES, ROWS, PAIRS, HEAD_DIM>(
      queries, factors, keys + place * HEAD_DIM * PAGE, values + place * HEAD_DIM * PAGE, key_scale + scales,
      value_scale + scales, count, lane, one);
  if (!SPLIT) join(all, one);
  for (int r = 0; SPLIT && r < rows; r++) {
    const long result = (long(token) * HEADS + head + r) * pages + piece;
    if (lane == 0) {
      maxima[result] = one.m[r];
      totals[result] = one.l[r];
    }
    for (int j = 0; j < PAIRS; j++)
      for (int i = 0; i < 2; i++)
        if (2 * lane + 64 * j < HEAD_DIM) sums[result * HEAD_DIM + 2 * lane + 64 * j + i] = one.acc[r][2 * j + i];
  }
}
for (int r = 0; !SPLIT && r < rows; r++)
  for (int j = 0; j < PAIRS; j++)
    for (int i = 0; i < 2; i++)
      if (2 * lane + 64 * j < HEAD_DIM)
        y[(long(token) * HEADS + head + r) * HEAD_DIM + 2 * lane + 64 * j + i] =
            X(position < 0 ? 0.0f : div_rn(all.acc[r][2 * j + i], all.l[r]));
