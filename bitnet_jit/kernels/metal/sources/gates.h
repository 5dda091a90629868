// The values of a row, in float32: x as it is, or what a gate or a sum makes of x and another tensor.
enum Gate { PLAIN = 0, ADD = 1, RELU2 = 2, SILU = 3, SIGMOID = 4, GELU = 5 };

constant constexpr float GELU_2U = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constant constexpr float GELU_CUBE = 0.044715f;

// Return the value that a gate makes of x and the other number; X is the dtype to which a sum is rounded.
template <int GATE, typename X>
FUNCTION float gated(float x, float other) {
  if (GATE == ADD) return float(X(add_rn(x, other)));
  if (GATE == RELU2) {
    const float kept = x <= 0.0f ? 0.0f : x;  // NaN stays
    return mul_rn(mul_rn(kept, kept), other);
  }
  if (GATE == SILU) return mul_rn(div_rn(x, add_rn(1.0f, exp_of(-x))), other);
  if (GATE == SIGMOID) return mul_rn(div_rn(1.0f, add_rn(1.0f, exp_of(-x))), other);
  if (GATE == GELU) {
    const float cube = mul_rn(mul_rn(mul_rn(GELU_CUBE, x), x), x);
    const float power = mul_rn(GELU_2U, add_rn(x, cube));
    return mul_rn(div_rn(x, add_rn(1.0f, exp_of(-power))), other);
  }
  return x;
}

// The values of a row that a thread has: each THREADS-th one. It holds HELD of them, or with 0 makes them anew each time.
template <int GATE, typename X, int HELD, int THREADS, typename P>
struct Values {
  P x, other;  // where the row begins
  int first, size, count;
  float held[HELD ? HELD : 1];

  int place(int i) const { return first + THREADS * i; }
  bool inside(int i) const { return place(i) < size; }
  float made(int i) const {
    const int k = place(i);
    return k < size ? gated<GATE, X>(float(x[k]), GATE == PLAIN ? 0.0f : float(other[k])) : 0.0f;
  }
  float at(int i) const { return HELD ? held[i] : made(i); }
};

// Return the values of the thread that begins at `first`, of a row of some size.
template <int GATE, typename X, int HELD, int THREADS, typename P>
FUNCTION Values<GATE, X, HELD, THREADS, P> values_of(P x, P other, int first, int size) {
  Values<GATE, X, HELD, THREADS, P> values;
  values.x = x;
  values.other = other;
  values.first = first;
  values.size = size;
  values.count = HELD ? HELD : (size + THREADS - 1) / THREADS;
  for (int i = 0; i < HELD; i++) values.held[i] = values.made(i);
  return values;
}
