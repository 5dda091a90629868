// Numbers side by side that are read at once, from an address that is a multiple of so many of them.
template <typename T, int N>
struct alignas(N * sizeof(T)) Run {
  T at[N];
};
