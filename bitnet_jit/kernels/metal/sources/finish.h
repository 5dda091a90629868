// The last steps of a linear layer: the bias is added, and y rounded once more to the dtype of the output.
template <bool HAS_BIAS, typename Y, typename P>
FUNCTION Y with_bias(float y, P bias, int n) {
  return Y(HAS_BIAS ? add_rn(y, float(bias[n])) : y);
}
