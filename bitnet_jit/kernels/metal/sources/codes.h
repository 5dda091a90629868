// Sixteen weights of one word, multiplied by sixteen inputs.
//
// A word of i2/words holds the codes w + 1 of sixteen inputs in a row, the first in its lowest two bits. Each way below
// has `Weights`, decoded once for all rows, and holds a row's inputs: read as they are, or `set` to codes that the kernel
// has just made. All sums of codes are exact.

// Read sixteen numbers.
template <typename T>
FUNCTION void read_sixteen(const device T* from, thread float* to) {
  for (int f = 0; f < 4; f++) {
    const device Run<T, 4>* four = (const device Run<T, 4>*)from + f;
    for (int i = 0; i < 4; i++) to[4 * f + i] = float(four->at[i]);
  }
}

struct FloatWeights {
  float at[16];
};

FUNCTION float dot_of(FloatWeights w, const thread float* x) {
  float sum = 0;
  for (int i = 0; i < 16; i++) sum += w.at[i] * x[i];
  return sum;
}

// By conversion: a shift, a mask, a conversion and a multiply-add per weight.
struct ByConversion {
  typedef float Sum;
  typedef FloatWeights Weights;
  float x[16];

  template <typename X>
  void load(const device X* from) {
    read_sixteen(from, x);
  }

  void set(const thread float* codes) {
    for (int i = 0; i < 16; i++) x[i] = codes[i];
  }

  static Weights decode(uint word) {
    Weights w;
    for (int i = 0; i < 16; i++) w.at[i] = float(int((word >> (2 * i)) & 3) - 1);
    return w;
  }

  float dot(Weights w) const { return dot_of(w, x); }
};

// By halves whose exponent is written: 0x6400 | field is 1024 + field, two weights of a word at a time. Fields that do
// not lie lowest in their half count 4, 16, ... times as much, and their inputs as many times less, exactly.
struct ByExponent {
  typedef float Sum;
  typedef FloatWeights Weights;
  enum { STAY = 5 };  // fields that lie within a half's mantissa; the three others come down by one shift
  float x[16];

  static int place(int i) { return i < STAY ? i : i - STAY; }

  template <typename X>
  void load(const device X* from) {
    float inputs[16];
    read_sixteen(from, inputs);
    set(inputs);
  }

  void set(const thread float* inputs) {
    for (int i = 0; i < 16; i++) x[i] = inputs[i] * (1.0f / float(1 << (2 * place(i % 8))));
  }

  static Weights decode(uint word) {
    Weights w;
    for (int i = 0; i < 8; i++) {
      const uint fields = (i < STAY ? word : word >> (2 * STAY)) & (0x00030003u << (2 * place(i)));
      const half zero = half(float(1024 + (1 << (2 * place(i)))));
      w.at[i] = float(as_type<half>(ushort((fields | 0x6400u) & 0xffffu)) - zero);
      w.at[i + 8] = float(as_type<half>(ushort((fields >> 16) | 0x6400u)) - zero);
    }
    return w;
  }

  float dot(Weights w) const { return dot_of(w, x); }
};

struct ByteWeights {
  uint at[4];
};

// By dot products of four bytes: inputs are int8, whose bytes are put in the order of a word's fields.
struct ByBytes {
  typedef int Sum;
  typedef ByteWeights Weights;
  uint x[4];
  int total;

  void load(const device int8_t* from) {
    const device Run<uint, 4>* four = (const device Run<uint, 4>*)from;
    uint bytes[4];
    for (int i = 0; i < 4; i++) bytes[i] = four->at[i];
    arrange(bytes);
  }

  void set(const thread float* codes) {
    uint bytes[4];
    for (int i = 0; i < 4; i++) {
      bytes[i] = 0;
      for (int j = 0; j < 4; j++) bytes[i] |= (uint(int(codes[4 * i + j])) & 0xffu) << (8 * j);
    }
    arrange(bytes);
  }

  void arrange(const thread uint* bytes) {
    total = 0;
    for (int j = 0; j < 4; j++) x[j] = 0;
    for (int i = 0; i < 4; i++) {
      total = dot4(bytes[i], 0x01010101u, total);
      for (int j = 0; j < 4; j++) x[j] |= ((bytes[i] >> (8 * j)) & 0xffu) << (8 * i);
    }
  }

  static Weights decode(uint word) {
    Weights w;
    for (int j = 0; j < 4; j++) w.at[j] = (word >> (2 * j)) & 0x03030303u;
    return w;
  }

  int dot(Weights w) const {
    int sum = -total;
    for (int j = 0; j < 4; j++) sum = dot4(w.at[j], x[j], sum);
    return sum;
  }
};

template <int WAY>
struct Way;
template <>
struct Way<0> {
  typedef ByConversion Dot;
};
template <>
struct Way<1> {
  typedef ByExponent Dot;
};
template <>
struct Way<2> {
  typedef ByBytes Dot;
};

// What a linear layer adds up: sums of codes, or floats where groups have scales.
template <bool GROUPS, typename Sum>
struct Total {
  typedef Sum Type;
};
template <typename Sum>
struct Total<true, Sum> {
  typedef float Type;
};
