// Runs kernels that were compiled against host.h: requests come on standard input, answers go to standard output.
//
// A request: the path of a library, the grid of threadgroups, threads of each, a seed, and buffers; the answer is the
// buffers as the kernel left them. A fault ends the process with a report on standard error.
#include <dlfcn.h>

#include <random>
#include <string>
#include <utility>
#include <map>
#include <vector>

#include "host.h"

namespace {
constexpr size_t STACK = 256 << 10;
constexpr int MAX_THREADS = 1024;
enum State { READY, AT_BARRIER, AT_SIMD, DONE };

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "metal_host: %s\n", why.c_str());
  std::fflush(stderr);
  std::_Exit(3);
}

struct Fiber {
  char* stack = nullptr;
  void* pointer = nullptr;
  State state = DONE;
  int operation = 0;
  unsigned turns = 0;  // operations of its simdgroup that it has come to
  host::Place place;
};

struct Group {
  std::vector<Fiber> fibers = std::vector<Fiber>(MAX_THREADS);
  std::vector<int> ready[MAX_THREADS / 32];  // threads that can go on, by simdgroup
  std::vector<char> slots = std::vector<char>(2 * MAX_THREADS * 64);
  std::map<int, std::vector<char>> lines;  // what the sources declared, by line: threads of a group share it
  std::map<int, void*> shared;
  int threads = 0;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  std::mt19937 random;
  void (*body)(void**) = nullptr;
  void** buffers = nullptr;
} group;

// Save the callee's registers, go on on another stack. System V, x86-64 or AArch64.
extern "C" void switch_stack(void** save, void* to);
#if defined(__x86_64__)
asm(R"(
.globl switch_stack
switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
constexpr int SAVED = 6;
#else
#error "metal_host: switch_stack is written for x86-64"
#endif

void leave(State state) {
  group.current->state = state;
  switch_stack(&group.current->pointer, group.scheduler);
}

void begin() {
  group.body(group.buffers);
  leave(DONE);
  fail("a thread went on behind its end");
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = (char*)std::malloc(STACK);
  void** top = (void**)(((uintptr_t)(fiber.stack + STACK) & ~uintptr_t(15)) - 64);
  top[0] = (void*)begin;
  top[1] = nullptr;
  fiber.pointer = top - SAVED;
  fiber.turns = 0;
}

host::Place* place() { return &group.current->place; }

void* shared_memory(int line, size_t bytes) {
  void*& memory = group.shared[line];
  if (!memory) {
    memory = std::malloc(bytes);
    for (size_t i = 0; i < bytes; i++) ((unsigned char*)memory)[i] = (unsigned char)group.random();
  }
  return memory;
}

void wait_for_threadgroup() { leave(AT_BARRIER); }

void* exchange(const void* mine, size_t bytes, int operation) {
  Fiber& fiber = *group.current;
  char* base = group.slots.data() + (fiber.turns++ % 2) * MAX_THREADS * 64 + fiber.place.simdgroup * 32 * 64;
  std::memcpy(base + fiber.place.lane * 64, mine, bytes);
  fiber.operation = operation;
  leave(AT_SIMD);
  return base;
}

// Let threads of a simdgroup go on.
void go_on(int t) {
  group.fibers[t].state = READY;
  group.ready[t / 32].push_back(t);
}

// Let a simdgroup go on whose lanes have all come to the same operation.
void release_simdgroup(int first) {
  for (int lane = 0; lane < 32; lane++) {
    const Fiber& fiber = group.fibers[first + lane];
    if (fiber.state != AT_SIMD) return;
    if (fiber.operation != group.fibers[first].operation) fail("lanes come to unlike operations of a simdgroup");
  }
  for (int lane = 0; lane < 32; lane++) go_on(first + lane);
}

// Let a threadgroup go on from its barrier, where nobody else can; false where all have ended.
bool release_threadgroup() {
  int counts[4] = {};
  for (int t = 0; t < group.threads; t++) counts[group.fibers[t].state]++;
  if (counts[AT_SIMD]) fail("lanes of a simdgroup do not come to the same operation");
  if (counts[AT_BARRIER] && counts[DONE]) fail("some threads end where others wait at a barrier");
  for (int t = 0; t < group.threads; t++)
    if (group.fibers[t].state == AT_BARRIER) go_on(t);
  return counts[AT_BARRIER] > 0;
}

// Return a thread that can go on: mostly of the simdgroup that is ahead, so that some run far before others; -1: none.
int draw(int& ahead) {
  const int simdgroups = group.threads / 32;
  if (group.random() % 256 == 0) ahead = int(group.random() % simdgroups);
  int from = group.random() % 8 ? ahead : int(group.random() % simdgroups);
  for (int tries = 0; group.ready[from].empty(); from = (from + 1) % simdgroups)
    if (tries++ == simdgroups) return -1;
  auto& ready = group.ready[from];
  std::swap(ready[group.random() % ready.size()], ready.back());
  const int t = ready.back();
  ready.pop_back();
  return t;
}

void run_group(uint3 where) {
  for (auto& [line, memory] : group.shared) std::free(memory);
  group.shared.clear();
  for (int t = 0; t < group.threads; t++) {
    prepare(group.fibers[t]);
    group.fibers[t].place = {where, uint(t), uint(t % 32), uint(t / 32)};
    go_on(t);
  }
  do {
    int ahead = int(group.random() % (group.threads / 32));
    for (int t = draw(ahead); t >= 0; t = draw(ahead)) {
      group.current = &group.fibers[t];
      switch_stack(&group.scheduler, group.current->pointer);
      if (group.current->state == AT_SIMD) release_simdgroup(t / 32 * 32);
    }
  } while (release_threadgroup());
}

void read_all(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::_Exit(0);  // who asked has gone
}

template <typename T>
T read_one() {
  T value;
  read_all(&value, sizeof(T));
  return value;
}
}  // namespace

int main() {
  static const host::Services services = {place, shared_memory, wait_for_threadgroup, exchange};
  std::map<std::string, void (*)(void**)> bodies;
  while (true) {
    std::string path(read_one<uint32_t>(), ' ');
    read_all(path.data(), path.size());
    auto& body = bodies[path];
    if (!body) {
      void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) fail(dlerror());
      ((void (*)(const host::Services*))dlsym(library, "set_services"))(&services);
      body = (void (*)(void**))dlsym(library, "run");
    }
    const uint3 grid = read_one<uint3>();
    group.threads = int(read_one<uint32_t>());
    if (group.threads % 32 || group.threads < 32 || group.threads > MAX_THREADS) fail("threads: 32 to 1024 by 32");
    group.random.seed(read_one<uint32_t>());
    std::vector<std::pair<void*, uint64_t>> buffers(read_one<uint32_t>());
    std::vector<void*> addresses;
    for (auto& [memory, bytes] : buffers) {
      bytes = read_one<uint64_t>();
      memory = std::malloc(bytes);
      read_all(memory, bytes);
      addresses.push_back(memory);
    }
    group.body = body;
    group.buffers = addresses.data();
    std::vector<uint3> places;
    for (uint z = 0; z < grid.z; z++)
      for (uint y = 0; y < grid.y; y++)
        for (uint x = 0; x < grid.x; x++) places.push_back({x, y, z});
    while (!places.empty()) {
      std::swap(places[group.random() % places.size()], places.back());
      run_group(places.back());
      places.pop_back();
    }
    for (auto& [memory, bytes] : buffers) {
      std::fwrite(memory, 1, bytes, stdout);
      std::free(memory);
    }
    std::fflush(stdout);
  }
}
