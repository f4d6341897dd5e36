// Checks of the emulator for tests/native/test_emulation.py, one a run: `checks NAME`. Numbers are
// read from standard input and written to standard output, separated by spaces; the test judges
// them.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "cuda/linalg/mma.cuh"

namespace zopo {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(3);
}
void allow_shared(const void* kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

namespace {

using Numbers = std::vector<double>;

Numbers input() {
  Numbers values;
  for (std::string word; std::cin >> word;) values.push_back(std::strtod(word.c_str(), nullptr));
  return values;
}
template <class T>
void print(const T* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) std::printf("%.17g ", static_cast<double>(values[i]));
  std::printf("\n");
  std::fflush(stdout);
}

// Allocate device memory with these values, and print what is in it afterwards.
template <class T>
T* upload(const std::vector<T>& values) {
  T* p = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&p), values.size() * sizeof(T)), "cudaMalloc");
  copy(p, values.data(), values.size() * sizeof(T), nullptr);
  return p;
}
template <class T>
T* zeros(std::size_t count) {
  return upload(std::vector<T>(count));
}
template <class T>
void download(T* p, std::size_t count) {
  std::vector<T> values(count);
  // The copy runs when the host waits, so the vector must live until then.
  copy(values.data(), p, count * sizeof(T), nullptr);
  synchronize(nullptr);
  print(values.data(), count);
  check(cudaFree(p), "cudaFree");
}

// ---- barriers --------------------------------------------------------------------------------------

// Each thread takes over the value that the one before it has put into shared memory.
template <bool kBarrier>
__global__ void shift(double* out) {
  auto* s = shared_memory<double>();
  s[threadIdx.x] = threadIdx.x;
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] : 0.0;
}
template <bool kBarrier>
void shifted() {
  auto* out = zeros<double>(64);
  launch("shift", shift<kBarrier>, {.grid = 1, .block = 64, .shared = 64 * sizeof(double)}, out);
  download(out, 64);
}

__global__ void half_waits(double* out) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncwarp();  // waits for all lanes, half of which wait at another barrier
  out[threadIdx.x] = 1.0;
}
void deadlock() {
  auto* out = zeros<double>(32);
  launch("half_waits", half_waits, {.grid = 1, .block = 32}, out);
  download(out, 32);
}

// Blocks exchange their numbers; only a cooperative launch runs them all at once.
__global__ void meet(unsigned* state, double* of_block, double* out) {
  if (threadIdx.x == 0) of_block[blockIdx.x] = blockIdx.x + 1.0;
  grid_barrier(state);
  double sum = 0.0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += of_block[b];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
template <bool kCooperative>
void met() {
  auto* state = zeros<unsigned>(2);
  auto *of_block = zeros<double>(4), *out = zeros<double>(4 * 32);
  for (int again = 0; again < 2; ++again)
    launch("meet", meet, {.grid = 4, .block = 32, .cooperative = kCooperative}, state, of_block,
           out);
  download(out, 4 * 32);
}

__global__ void count_even(double* out) {
  const int odd = static_cast<int>(threadIdx.x) % 2;
  const int count = __syncthreads_count(!odd), any = __syncthreads_or(threadIdx.x == 5),
            all = __syncthreads_and(threadIdx.x < 40);
  out[threadIdx.x] = count + 100 * any + 1000 * all;
}
void counted() {
  auto* out = zeros<double>(64);
  launch("count_even", count_even, {.grid = 1, .block = 64}, out);
  download(out, 64);
}

__global__ void sums(const double* in, double* out) {
  auto* scratch = shared_memory<double>();
  const double first = block_sum(in[threadIdx.x], scratch);
  const double second = block_sum(2.0 * in[threadIdx.x], scratch);
  out[threadIdx.x] = first + 1000.0 * second;
}
void summed() {
  const Numbers values = input();
  auto *in = upload(values), *out = zeros<double>(values.size());
  launch("sums", sums,
         {.grid = 1, .block = static_cast<unsigned>(values.size()), .shared = 33 * sizeof(double)},
         in, out);
  download(out, values.size());
}

// ---- memory ----------------------------------------------------------------------------------------

__global__ void write_at(float* p, int at) { p[at] = 1.0f; }
// Write to one of 100 floats or outside them. The page ends 12 floats behind them, because sizes
// are rounded up to 256 bytes.
template <int kAt>
void written() {
  auto* p = zeros<float>(100);
  launch("write_at", write_at, {.grid = 1, .block = 1}, p, kAt);
  download(p, 100);
}

__global__ void write_shared(int at) { shared_memory<float>()[at] = 1.0f; }
template <int kAt>
void written_shared() {
  launch("write_shared", write_shared, {.grid = 1, .block = 1, .shared = 4 * sizeof(float)}, kAt);
  synchronize(nullptr);
}
void much_shared() {
  launch("write_shared", write_shared, {.grid = 1, .block = 1, .shared = 227 * 1024}, 0);
  synchronize(nullptr);
  print<double>(nullptr, 0);
  launch("write_shared", write_shared, {.grid = 1, .block = 1, .shared = 227 * 1024 + 16}, 0);
}

void host_reads() {
  const auto* p = zeros<double>(8);
  synchronize(nullptr);
  print(p, 8);
}
void host_writes() {
  auto* p = zeros<double>(8);
  synchronize(nullptr);
  p[0] = 1.0;
}

void freed_twice() {
  auto* p = zeros<double>(8);
  check(cudaFree(p), "cudaFree");
  check(cudaFree(p), "cudaFree");
}

void unwritten() {
  double* p = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&p), 3 * sizeof(double)), "cudaMalloc");
  download(p, 3);
}

void exhausted() {
  double* p = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&p), 1000 * sizeof(double)), "cudaMalloc");
}

// ---- streams ---------------------------------------------------------------------------------------

__global__ void answer(double* out) { *out = 42.0; }
void lazy() {
  const Mailbox<double> box(1);
  box[0] = 7.0;
  launch("answer", answer, {.grid = 1, .block = 1}, box.data());
  print(box.data(), 1);
  synchronize(nullptr);
  print(box.data(), 1);
}

// When a copy to the device returns, pageable memory has been read but page-locked memory has not.
void copied() {
  const Mailbox<double> box(1);
  std::vector<double> pageable{1.0};
  box[0] = 2.0;
  auto* p = zeros<double>(2);
  copy(p, pageable.data(), sizeof(double), nullptr);
  copy(p + 1, box.data(), sizeof(double), nullptr);
  pageable[0] = 10.0;
  box[0] = 20.0;
  download(p, 2);
}

// ---- warps -----------------------------------------------------------------------------------------

constexpr int kShuffles = 14;
__global__ void shuffle(const double* in, double* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const double x = in[lane];
  double* mine = out + lane * kShuffles;
  *mine++ = __shfl_sync(kFullWarp, x, 5);
  *mine++ = __shfl_sync(kFullWarp, x, (lane * 7 + 3) % 32);
  *mine++ = __shfl_sync(kFullWarp, x, lane + 1, 8);
  *mine++ = __shfl_xor_sync(kFullWarp, x, 1);
  *mine++ = __shfl_xor_sync(kFullWarp, x, 16);
  *mine++ = __shfl_xor_sync(kFullWarp, x, 3, 4);
  *mine++ = __shfl_down_sync(kFullWarp, x, 1);
  *mine++ = __shfl_down_sync(kFullWarp, x, 5, 16);
  *mine++ = __shfl_up_sync(kFullWarp, x, 1);
  *mine++ = __shfl_up_sync(kFullWarp, x, 5, 16);
  *mine++ = __ballot_sync(kFullWarp, x > 0.0);
  *mine++ = __any_sync(kFullWarp, lane == 9) + 2 * __any_sync(kFullWarp, lane > 40);
  *mine++ = __all_sync(kFullWarp, lane < 32) + 2 * __all_sync(kFullWarp, lane != 9);
  *mine++ = warp_sum(x);
}
void shuffled() {
  auto *in = upload(input()), *out = zeros<double>(32 * kShuffles);
  launch("shuffle", shuffle, {.grid = 1, .block = 32}, in, out);
  download(out, 32 * kShuffles);
}

// Multiply with ten numbers a lane: four of A, two of B, four of C; C comes back.
template <class T>
__global__ void multiply(const T* in, T* out) {
  const T* mine = in + threadIdx.x * 10;
  const T a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  T c[4] = {mine[6], mine[7], mine[8], mine[9]};
  if constexpr (sizeof(T) == 8)
    mma_f64(c, a, b);
  else
    mma_tf32(c, a, b);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = c[i];
}
template <class T>
void multiplied() {
  const Numbers values = input();
  auto* in = upload(std::vector<T>(values.begin(), values.end()));
  auto* out = zeros<T>(32 * 4);
  launch("multiply", multiply<T>, {.grid = 1, .block = 32}, static_cast<const T*>(in), out);
  download(out, 32 * 4);
}

// ---- conversions -----------------------------------------------------------------------------------

void half_to_float() {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float x = __half2float({static_cast<std::uint16_t>(bits)});
    std::printf("%u %u ", __float_as_uint(x), unsigned{__float2half_rn(x).bits});
  }
}
void float_to_half() {
  for (const double x : input())
    std::printf("%u ", unsigned{__float2half_rn(static_cast<float>(x)).bits});
}
void tf32() {
  for (const double x : input())
    std::printf("%u ", __float_as_uint(round_to_tf32(static_cast<float>(x))));
}

// ---- asynchronous copies ---------------------------------------------------------------------------

// Copy two groups of four floats and one that must not be read; note what is visible at each point.
__global__ void fetch(const float* in, float* out) {
  auto* s = shared_memory<float>();
  for (int i = 0; i < 12; ++i) s[i] = -1.0f;
  const auto note = [&](int at) {
    for (int i = 0; i < 12; ++i) out[12 * at + i] = s[i];
  };
  copy_async16(s, in);
  copy_async_commit();
  copy_async8(s + 4, in + 4);
  copy_async4(s + 6, in + 6);
  copy_async4(s + 7, in + 7);
  copy_async16(s + 8, nullptr, false);
  copy_async_commit();
  note(0);
  copy_async_wait<1>();
  note(1);
  copy_async_wait<0>();
  note(2);
}
void fetched() {
  auto *in = upload(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}), *out = zeros<float>(36);
  launch("fetch", fetch, {.grid = 1, .block = 1, .shared = 48}, static_cast<const float*>(in), out);
  download(out, 36);
}
__global__ void fetch_unaligned(const float* in) {
  copy_async16(shared_memory<float>(), in + 1);
  copy_async_commit();
  copy_async_wait<0>();
}
void unaligned() {
  const auto* in = zeros<float>(8);
  launch("fetch_unaligned", fetch_unaligned, {.grid = 1, .block = 1, .shared = 16}, in);
  synchronize(nullptr);
}

const std::map<std::string, void (*)()> kChecks{
    {"shift with a barrier", shifted<true>},
    {"shift without a barrier", shifted<false>},
    {"deadlock", deadlock},
    {"grid barrier", met<true>},
    {"grid barrier without a cooperative launch", met<false>},
    {"barrier counts", counted},
    {"block sums", summed},
    {"write inside", written<99>},
    {"write beyond the end", written<100>},
    {"write before the start", written<-1>},
    {"write beyond the page", written<128>},
    {"shared memory", written_shared<3>},
    {"shared memory beyond the end", written_shared<4>},
    {"shared memory beyond the limit", much_shared},
    {"host reads", host_reads},
    {"host writes", host_writes},
    {"freed twice", freed_twice},
    {"unwritten", unwritten},
    {"exhausted", exhausted},
    {"lazy", lazy},
    {"copies", copied},
    {"shuffles", shuffled},
    {"mma_f64", multiplied<double>},
    {"mma_tf32", multiplied<float>},
    {"half to float", half_to_float},
    {"float to half", float_to_half},
    {"tf32", tf32},
    {"asynchronous copies", fetched},
    {"unaligned copy", unaligned},
};

}  // namespace
}  // namespace zopo

int main(int argc, char** argv) {
  const auto found = argc == 2 ? zopo::kChecks.find(argv[1]) : zopo::kChecks.end();
  if (found == zopo::kChecks.end()) {
    for (const auto& [name, run] : zopo::kChecks) std::printf("%s\n", name.c_str());
    return 2;
  }
  found->second();
}
