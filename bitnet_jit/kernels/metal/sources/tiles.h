// What a threadgroup lays out for its matrices.

// Write four numbers as operands, as they are or times a scale.
template <bool SCALED, typename X, typename OP>
FUNCTION void read_four(const device X* from, threadgroup OP* to, float scale) {
  const device Run<X, 4>* four = (const device Run<X, 4>*)from;
  for (int i = 0; i < 4; i++) to[i] = SCALED ? OP(float(four->at[i]) * scale) : OP(four->at[i]);
}

// Write the sixteen weights of a word as operands, times a scale.
template <typename OP>
FUNCTION void write_weights(uint word, threadgroup OP* to, float scale) {
  for (int i = 0; i < 16; i++) to[i] = OP(float(int((word >> (2 * i)) & 3) - 1) * scale);
}
