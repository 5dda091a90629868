// Tokens of sequences in any mix: which sequence a token is of, and its heads, rotated.
enum { PAGE = 64 };

// Return the sequence of a token, as all lanes of a simdgroup ask for it; `sequences` for padding behind the last one.
template <typename P>
FUNCTION int sequence_of(P starts, int sequences, int token, int lane) {
  int begun = 0;
  for (int r = lane; r <= sequences; r += 32) begun += starts[r] <= token;
  return simd_sum(begun) - 1;
}

struct Turned {
  float low, high;
};

// Return the numbers j of both halves of a head, rotated by the cosines and sines of a position; each step is rounded.
template <int HEAD_DIM, typename X, typename R>
FUNCTION Turned turned(X head, R angles, int j) {
  const float low = float(head[j]), high = float(head[j + HEAD_DIM / 2]);
  const float cosine = angles[j], sine = angles[j + HEAD_DIM / 2];
  Turned t;
  t.low = add_rn(mul_rn(low, cosine), -mul_rn(high, sine));
  t.high = add_rn(mul_rn(high, cosine), mul_rn(low, sine));
  return t;
}

// Return the quantizer of a head that is rotated, the same for all lanes of a simdgroup.
template <int HEAD_DIM, typename X, typename R>
FUNCTION Quantizer quantizer_of_turned(X head, R angles, int lane) {
  uint largest = 0;
  for (int j = lane; j < HEAD_DIM / 2; j += 32) {
    const Turned t = turned<HEAD_DIM>(head, angles, j);
    largest = max(largest, max(magnitude(t.low), magnitude(t.high)));
  }
  return quantizer_of(simd_max(largest));
}

// Return the quantizer of a head as it is.
template <int HEAD_DIM, typename X>
FUNCTION Quantizer quantizer_of_head(X head, int lane) {
  uint largest = 0;
  for (int d = lane; d < HEAD_DIM; d += 32) largest = max(largest, magnitude(float(head[d])));
  return quantizer_of(simd_max(largest));
}
