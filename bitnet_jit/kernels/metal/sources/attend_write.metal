// Keys and values of a call's tokens into the pages of their sequences: keys rotated, both rounded or quantized to C.
//
// A simdgroup has a head of a token. qkv (T, (HEADS + 2 KV) HEAD_DIM), rotary (C, HEAD_DIM), positions (T,),
// starts (R + 1,), tables (R, M); keys (P, KV, HEAD_DIM, PAGE), values (P, KV, PAGE, HEAD_DIM), key_scale and
// value_scale (P, KV, PAGE). sizes: T, R, M.
const int lane = int(thread_index_in_simdgroup), sequences = sizes[1];
const int unit = int(threadgroup_position_in_grid.x) * SIMDGROUPS + int(simdgroup_index_in_threadgroup);
const int token = min(unit / KV, sizes[0] - 1), kv = unit % KV;
const int sequence = sequence_of(starts, sequences, token, lane);
const int position = unit < sizes[0] * KV && sequence < sequences ? positions[token] : -1;
if (position >= 0) {
  const auto key = qkv + (long(token) * (HEADS + 2 * KV) + HEADS + kv) * HEAD_DIM;
  const auto value = key + KV * HEAD_DIM;
  const auto angles = rotary + long(position) * HEAD_DIM;
  const long place = long(tables[long(sequence) * sizes[2] + position / PAGE]) * KV + kv;
  const int slot = position % PAGE;
  Quantizer of_key = quantizer_of(0), of_value = of_key;
  if (CODES) {
    of_key = quantizer_of_turned<HEAD_DIM>(key, angles, lane);
    of_value = quantizer_of_head<HEAD_DIM>(value, lane);
  }
  for (int j = lane; j < HEAD_DIM / 2; j += 32) {
    const Turned t = turned<HEAD_DIM>(key, angles, j);
    keys[(place * HEAD_DIM + j) * PAGE + slot] = C(CODES ? of_key.code(t.low) : t.low);
    keys[(place * HEAD_DIM + j + HEAD_DIM / 2) * PAGE + slot] = C(CODES ? of_key.code(t.high) : t.high);
  }
  for (int d = lane; d < HEAD_DIM; d += 32) {
    const float number = float(value[d]);
    values[(place * PAGE + slot) * HEAD_DIM + d] = C(CODES ? of_value.code(number) : number);
  }
  if (CODES && lane == 0) {
    key_scale[place * PAGE + slot] = of_key.scale;
    value_scale[place * PAGE + slot] = of_value.scale;
  }
}
