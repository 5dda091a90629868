// A piece of attention, PAGE positions complete in themselves, and how pieces are joined, one after the other.
//
//   s = (q k) D^-0.5    m = max s    p = exp(s - m)    l = sum p    acc = p v
//   M' = max(M, m)    l' = l exp(M - M') + l_i exp(m - M')    acc' likewise    y = acc / l
//
// A simdgroup has ROWS heads of a token that read the same keys and values. Its lanes have two positions each for the
// scores, and pairs of dimensions for acc; each sum has one order, whatever ROWS is. With codes, q and k are whole
// numbers, whose sums float32 holds exactly.

FUNCTION float negative_infinity() { return as_type<float>(0xff800000u); }

// Of pieces: `acc` at 2 j and 2 j + 1 has the dimensions 2 lane + 64 j and the next one.
template <int ROWS, int PAIRS>
struct Pieces {
  float m[ROWS], l[ROWS], acc[ROWS][2 * PAIRS];
};

template <int ROWS, int PAIRS>
FUNCTION void clear(thread Pieces<ROWS, PAIRS>& pieces) {
  for (int r = 0; r < ROWS; r++) {
    pieces.m[r] = negative_infinity();
    pieces.l[r] = 0.0f;
    for (int j = 0; j < 2 * PAIRS; j++) pieces.acc[r][j] = 0.0f;
  }
}

struct Fades {
  float largest, before, now;
};

// Return max(M, m), and the factors of the pieces so far and of the next one.
FUNCTION Fades fades(float before, float now) {
  Fades f;
  f.largest = max(before, now);
  const float base = f.largest == negative_infinity() ? 0.0f : f.largest;
  f.before = exp_of(before - base);
  f.now = exp_of(now - base);
  return f;
}

// Return l or acc of the pieces so far with one more's.
FUNCTION float joined(float before, float now, Fades f) { return fma_rn(now, f.now, mul_rn(before, f.before)); }

// Add the next piece.
template <int ROWS, int PAIRS>
FUNCTION void join(thread Pieces<ROWS, PAIRS>& all, thread const Pieces<ROWS, PAIRS>& piece) {
  for (int r = 0; r < ROWS; r++) {
    const Fades f = fades(all.m[r], piece.m[r]);
    all.m[r] = f.largest;
    all.l[r] = joined(all.l[r], piece.l[r], f);
    for (int j = 0; j < 2 * PAIRS; j++) all.acc[r][j] = joined(all.acc[r][j], piece.acc[r][j], f);
  }
}

struct Scores {
  float at[2];
};

// Compute products of queries (ROWS, HEAD_DIM) and keys (HEAD_DIM, PAGE) at a lane's two positions.
template <int ROWS, int HEAD_DIM, typename C>
FUNCTION void multiply_keys(threadgroup const float* queries, const device C* keys, int lane, thread Scores* scores) {
  for (int r = 0; r < ROWS; r++) scores[r].at[0] = scores[r].at[1] = 0.0f;
  for (int d = 0; d < HEAD_DIM; d++) {
    const device Run<C, 2>* key = (const device Run<C, 2>*)(keys + d * PAGE + 2 * lane);
    for (int i = 0; i < 2; i++) {
      const float k = float(key->at[i]);
      for (int r = 0; r < ROWS; r++) scores[r].at[i] = fma_rn(queries[r * HEAD_DIM + d], k, scores[r].at[i]);
    }
  }
}

// Add weights times the value (HEAD_DIM,) of one position to acc.
template <int ROWS, int PAIRS, int HEAD_DIM, typename C>
FUNCTION void add_value(
    thread const float* weights, const device C* value, int lane, thread Pieces<ROWS, PAIRS>& piece) {
  for (int j = 0; j < PAIRS; j++) {
    const int d = 2 * lane + 64 * j;
    const device Run<C, 2>* pair = (const device Run<C, 2>*)(value + d);
    for (int i = 0; i < 2 && d < HEAD_DIM; i++) {
      const float v = float(pair->at[i]);
      for (int r = 0; r < ROWS; r++) piece.acc[r][2 * j + i] = fma_rn(weights[r], v, piece.acc[r][2 * j + i]);
    }
  }
}

// Add weights of a page's first `count` positions times its values (PAGE, HEAD_DIM) to acc.
template <int ROWS, int PAIRS, int HEAD_DIM, typename C>
FUNCTION void multiply_values(
    thread const Scores* weights, const device C* values, int count, int lane, thread Pieces<ROWS, PAIRS>& piece) {
  for (int slot = 0; slot < count; slot += 2) {
    float even[ROWS], odd[ROWS];
    for (int r = 0; r < ROWS; r++) {
      even[r] = simd_shuffle(weights[r].at[0], slot / 2);
      odd[r] = simd_shuffle(weights[r].at[1], slot / 2);
    }
    add_value<ROWS, PAIRS, HEAD_DIM>(even, values + slot * HEAD_DIM, lane, piece);
    if (slot + 1 < count) add_value<ROWS, PAIRS, HEAD_DIM>(odd, values + (slot + 1) * HEAD_DIM, lane, piece);
  }
}

// Make weights of scores in place, p times a value's scale, and m and l of a piece; scores behind `count` are -inf.
template <bool CODES, int ROWS, int PAIRS, typename S>
FUNCTION void weigh(thread Scores* scores, S value_scale, int count, int lane, thread Pieces<ROWS, PAIRS>& piece) {
  for (int r = 0; r < ROWS; r++) {
    const float m = simd_max(max(scores[r].at[0], scores[r].at[1]));
    const float base = m == negative_infinity() ? 0.0f : m;
    for (int i = 0; i < 2; i++) scores[r].at[i] = exp_of(scores[r].at[i] - base);
    piece.m[r] = m;
    piece.l[r] = simd_sum(add_rn(scores[r].at[0], scores[r].at[1]));
    for (int i = 0; i < 2; i++)
      if (CODES && 2 * lane + i < count) scores[r].at[i] = mul_rn(scores[r].at[i], float(value_scale[2 * lane + i]));
  }
}

// Attend to the first `count` positions of a page of one head.
template <bool CODES, int ROWS, int PAIRS, int HEAD_DIM, typename C, typename S>
FUNCTION void attend_page(
    threadgroup const float* queries, thread const float* factors, const device C* keys, const device C* values,
    S key_scale, S value_scale, int count, int lane, thread Pieces<ROWS, PAIRS>& piece) {
  Scores scores[ROWS];
  multiply_keys<ROWS, HEAD_DIM>(queries, keys, lane, scores);
  for (int i = 0; i < 2; i++) {
    const int slot = 2 * lane + i;
    for (int r = 0; r < ROWS; r++) {
      const float by_key = CODES ? float(key_scale[slot]) : 1.0f;
      const float score = mul_rn(mul_rn(scores[r].at[i], factors[r]), by_key);
      scores[r].at[i] = slot < count ? score : negative_infinity();
    }
  }
  clear(piece);
  weigh<CODES>(scores, value_scale, count, lane, piece);
  multiply_values<ROWS, PAIRS, HEAD_DIM>(scores, values, count, lane, piece);
}
