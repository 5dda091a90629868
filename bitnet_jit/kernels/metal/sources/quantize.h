// The activation quantizer of a row.

constant constexpr float SMALLEST = 1e-5f;  // quantizers divide by no smaller absolute maximum

// Return the bits of |x|: as whole numbers they are in the order of the values, with NaN and infinity at the top.
FUNCTION uint magnitude(float x) { return as_type<uint>(x) & 0x7fffffffu; }

struct Quantizer {
  float inverse, scale;
  bool bad;  // a row with NaN or infinity has codes 0 and the scale NaN

  float code(float x) const { return bad ? 0.0f : min(max(rint(mul_rn(x, inverse)), -128.0f), 127.0f); }
};

// Return the quantizer of a row by the bits of its absolute maximum, whose code is `steps`.
FUNCTION Quantizer quantizer_of(uint absmax_bits, float steps = 127.0f) {
  Quantizer q;
  q.bad = absmax_bits >= 0x7f800000u;
  const float absmax = q.bad ? 1.0f : max(as_type<float>(absmax_bits), SMALLEST);
  q.inverse = div_rn(steps, absmax);
  q.scale = q.bad ? as_type<float>(0x7fc00000u) : div_rn(absmax, steps);
  return q;
}
