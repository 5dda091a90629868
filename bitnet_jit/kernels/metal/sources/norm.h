// Return 1 / sqrt(mean + eps) of a row's sum of squares, each step rounded.
FUNCTION float norm_factor(float squares, int size, float eps) {
  return div_rn(1.0f, sqrt_rn(add_rn(div_rn(squares, float(size)), eps)));
}
