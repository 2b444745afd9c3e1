// SPDX-License-Identifier: Apache-2.0
// The executor's test program: cases CASE SCHEDULE... runs one case under each schedule and prints
// a line of JSON for each: what went wrong, if anything, and what was counted.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/simt/declare.h"
#include "clean.cuh"
#include "planted.cuh"

// In arithmetic.cpp.
void check_add_round_down(uint64_t seed);
void check_rough_exp2();
void check_bits();

namespace simt = fusedraw::simt;
using fusedraw::cuda::launch;

namespace {

constexpr int kN = 640, kRows = 3, kOut = 4096;

struct alignas(64) Line {
  char bytes[64];
};

struct Memory {
  std::vector<Line> storage{(kRows * (kN + 64) * 4 + kOut * 8 + 4096) / 64};
  float* x = reinterpret_cast<float*>(storage.data());
  uint64_t* out64 = reinterpret_cast<uint64_t*>(x + kRows * (kN + 64));
  uint32_t* out = reinterpret_cast<uint32_t*>(out64);
};

void require(bool truth, const char* what) {
  if (!truth) throw std::runtime_error(std::string("wrong answer: ") + what);
}

// The answers of a case, whatever the schedule.
void check_same(const std::string& name, const std::vector<uint64_t>& values) {
  static std::map<std::string, std::vector<uint64_t>> first;
  require(first.emplace(name, values).first->second == values, name.c_str());
}

void run_histogram(Memory& m) {
  auto* x = reinterpret_cast<uint32_t*>(m.x);
  for (int i = 0; i < kRows * kN; ++i) x[i] = uint32_t(i) * 2654435761u >> 20;
  simt::Buffers scope;
  for (int r = 0; r < kRows; ++r)
    scope.declare(x + r * kN, kN * 4, simt::kRead, "x row " + std::to_string(r));
  constexpr int kRowOut = clean::kThreads + 2;
  scope.declare(m.out, kRows * kRowOut * 4, simt::kWrite, "out");
  launch(clean::histogram_scan, dim3(kRows), clean::kThreads, nullptr, x, kN, m.out);
  for (int r = 0; r < kRows; ++r) {
    std::vector<uint32_t> want(clean::kThreads);
    uint32_t most = 0, least = ~0u;
    for (int i = 0; i < kN; ++i) {
      const uint32_t v = x[r * kN + i];
      ++want[v % clean::kThreads];
      most = v > most ? v : most;
      least = v < least ? v : least;
    }
    for (int i = 1; i < clean::kThreads; ++i) want[size_t(i)] += want[size_t(i - 1)];
    want.push_back(most);
    want.push_back(least);
    require(std::vector<uint32_t>(m.out + r * kRowOut, m.out + (r + 1) * kRowOut) == want,
            "histogram");
  }
}

// What `collectives` computes, lane by lane.
uint64_t collectives_of(int t, int threads) {
  const int lane = t % 32, warp = t - lane;
  uint64_t all = 0;
  const auto mix = [&all](uint64_t v) { all = (all ^ v) * 0x9e3779b97f4a7c15u; };
  for (int width = 1; width <= 32; width *= 2)
    for (int d = 0; d < 32; d += 5) {
      const int first = lane / width * width, last = first + width - 1;
      mix(uint32_t(warp + first + d % width));
      mix(uint64_t(int64_t(-(warp + first + d % width))));
      mix(uint64_t(warp + ((lane ^ d) > last ? lane : lane ^ d)) << 33);
      mix(uint64_t(warp + (lane - d < first ? lane : lane - d)));
      mix(uint64_t(warp + (lane + d > last ? lane : lane + d)));
    }
  const auto votes = [&](auto predicate) {
    uint32_t b = 0;
    for (int l = 0; l < 32; ++l) b |= uint32_t(predicate(warp + l)) << l;
    return b;
  };
  mix(votes([](int i) { return i % 3 == 0; }));
  mix(warp == 32);
  mix(warp < 64);
  const uint32_t half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  for (int i = 0; i < (lane < 16 ? 2 : 5); ++i)
    mix(votes([i](int u) { return u % 32 % 5 == i; }) & half);
  mix(uint64_t((threads + 2) / 3));
  mix(threads > 77);
  mix(threads <= 77);
  mix(1);
  return all;
}

void run_collectives(Memory& m) {
  constexpr int kT = 96;
  launch(clean::collectives, dim3(2, 2), kT, nullptr, m.out64);
  for (int i = 0; i < 4 * kT; ++i) require(m.out64[i] == collectives_of(i % kT, kT), "collectives");
}

void run_dynamic(Memory& m) {
  constexpr int kT = 100;
  launch(clean::dynamic_reverse, dim3(3), kT, size_t(kT * 4), nullptr, m.out);
  for (int i = 0; i < 3 * kT; ++i)
    require(m.out[i] == uint32_t(kT - 1 - i % kT + i / kT), "dynamic");
}

void run_bytes(Memory& m) {
  launch(clean::bytes_and_warps, dim3(1), clean::kThreads, nullptr, m.out);
  std::vector<uint64_t> got(m.out, m.out + clean::kThreads);
  check_same("bytes", got);
  for (int i = 0; i < clean::kThreads; ++i) {
    const int warp = i / 32 * 32;
    require(m.out[i] == uint32_t(warp * 32 + 31 * 16 + ((clean::kThreads - 1 - i) % 7 == 0)),
            "bytes");
  }
}

template <int kFence>
void run_split(Memory& m) {
  constexpr int kBlocks = 5, kRow = 300;
  for (int i = 0; i < kBlocks * kRow; ++i) m.x[i] = float(i % 11);
  float* partial = m.x + kBlocks * kRow;
  m.out[0] = 0;
  launch(planted::split_sum<kFence>, dim3(kBlocks), 64, nullptr, m.x, kRow, partial, m.out,
         partial + kBlocks);
  double want = 0;
  for (int i = 0; i < kBlocks * kRow; ++i) want += i % 11;
  require(partial[kBlocks] == float(want), "split");
}

void run_grid_barrier(Memory& m) {
  m.out[0] = 0;
  launch(planted::grid_barrier, dim3(4), 64, nullptr, m.out, m.out + 1);
}

using Case = std::function<void(Memory&)>;

Case plain(void (*kernel)(uint32_t*)) {
  return [kernel](Memory& m) { launch(kernel, dim3(2), 64, nullptr, m.out); };
}

// With declared buffers: rows of kN values, 64 apart.
Case bounded(void (*kernel)(const float*, int, uint32_t*)) {
  return [kernel](Memory& m) {
    simt::Buffers scope;
    for (int r = 0; r < kRows; ++r)
      scope.declare(m.x + r * (kN + 64), kN * 4, simt::kRead, "x row " + std::to_string(r));
    scope.declare(m.out, 64 * 4, simt::kRead | simt::kWrite | simt::kUninitialised, "out");
    launch(kernel, dim3(1), 64, nullptr, m.x, kN, m.out);
  };
}

// A call of 3 strided rows with a packed mask, and no room but what it says.
template <bool kBug>
void run_call(Memory& m) {
  std::vector<uint32_t> mask(3 * 20);
  const std::vector<double> params(5);
  const std::vector<uint64_t> keys(6);
  std::vector<int64_t> ids(3), top_ids(6);
  std::vector<float> logp(3), top_logps(6);
  fusedraw::SampleCall call;
  call.x = {m.x, fusedraw::DType::kFloat32, 3, 600, kN};
  call.mask = {fusedraw::MaskView::Kind::kBits, mask.data(), 20};
  call.params.data = params.data();
  call.keys.data = keys.data();
  call.out.ids = ids.data();
  call.out.logp = logp.data();
  call.out.top_ids = top_ids.data();
  call.out.top_logps = top_logps.data();
  call.out.top_n = 2;
  simt::Buffers scope;
  declare(scope, call);
  launch(planted::ends_of_a_call<kBug>, dim3(3), 1, nullptr, call);
  require(top_ids[5] == 1, "call");
}

template <bool kBug>
void run_row_argument(Memory& m) {
  const simt::Buffers scope;
  launch(planted::row_of_an_argument<kBug>, dim3(1), 32, nullptr, planted::Row{m.x, kN});
}

template <typename... Parameters, typename... Arguments>
Case one_warp(void (*kernel)(Parameters...), Arguments... arguments) {
  return [=](Memory&) { launch(kernel, dim3(1), 32, nullptr, arguments...); };
}

// Each in two versions, name and name/fixed.
std::map<std::string, Case> planted_cases() {
  std::map<std::string, Case> c;
#define PLAIN(name)                      \
  c[#name] = plain(planted::name<true>); \
  c[#name "/fixed"] = plain(planted::name<false>)
#define BOUNDED(name)                      \
  c[#name] = bounded(planted::name<true>); \
  c[#name "/fixed"] = bounded(planted::name<false>)
  PLAIN(barrier_removed);
  PLAIN(barrier_removed_after_reads);
  PLAIN(two_writers);
  PLAIN(plain_beside_atomic);
  PLAIN(warp_barrier_missing);
  PLAIN(shuffle_for_a_barrier);
  PLAIN(half_warp_barrier);
  PLAIN(shared_index_too_far);
  PLAIN(shared_index_negative);
  PLAIN(shared_word_unwritten);
  PLAIN(shared_too_large);
  PLAIN(barrier_in_a_branch);
  PLAIN(barrier_of_another_branch);
  PLAIN(barrier_of_another_kind);
  PLAIN(mask_names_a_lane_that_left);
  PLAIN(mask_without_the_caller);
  PLAIN(masks_differ);
  PLAIN(shuffle_from_an_inactive_lane);
  PLAIN(deadlock);
  PLAIN(holds_something);
  BOUNDED(global_index_too_far);
  BOUNDED(reads_the_gap);
  BOUNDED(writes_its_input);
  BOUNDED(workspace_unwritten);
  BOUNDED(misaligned16);
  c["ends_of_a_call"] = run_call<true>;
  c["ends_of_a_call/fixed"] = run_call<false>;
  c["row_of_an_argument"] = run_row_argument<true>;
  c["row_of_an_argument/fixed"] = run_row_argument<false>;
#undef PLAIN
#undef BOUNDED
  return c;
}

std::map<std::string, Case> all_cases(Memory& m) {
  std::map<std::string, Case> c = planted_cases();
  c["histogram"] = run_histogram;
  c["collectives"] = run_collectives;
  c["dynamic"] = run_dynamic;
  c["bytes"] = run_bytes;
  c["split"] = run_split<3>;
  c["split/no_fence_before"] = run_split<2>;
  c["split/no_fence_behind"] = run_split<1>;
  c["grid_barrier"] = run_grid_barrier;
  c["grid_barrier/together"] = [](Memory& memory) {
    simt::options().resident = 4;
    run_grid_barrier(memory);
    simt::options().resident = 1;
  };
  c["shuffle_for_a_barrier/granted"] = [](Memory& memory) {
    simt::options().shuffles_order_memory = true;
    plain(planted::shuffle_for_a_barrier<true>)(memory);
    simt::options().shuffles_order_memory = false;
  };
  c["errors_one_after_the_other"] = [](Memory& memory) {
    int caught = 0;
    for (const auto& [name, run] : planted_cases()) try {
        run(memory);
      } catch (const std::runtime_error&) {
        ++caught;
      }
    require(caught == 27, "errors caught");
    require(planted::Held::alive == 0, "destructors");
    run_histogram(memory);
  };
  // What is left of a missing barrier and of an overrun without the executor's own checks, for the
  // sanitizers to find.
  c["barrier_removed/unchecked"] = [](Memory& memory) {
    simt::options().check_shared = false;
    plain(planted::barrier_removed<true>)(memory);
    simt::options().check_shared = true;
  };
  c["heap_overrun"] = [](Memory& memory) {
    const std::vector<float> x(kN);
    launch(planted::global_index_too_far<true>, dim3(1), 64, nullptr, x.data(), kN, memory.out);
  };
  c["arithmetic"] = [](Memory&) {
    check_add_round_down(simt::options().schedule);
    check_rough_exp2();
    check_bits();
  };
  c["launch_too_large"] = [](Memory& memory) {
    launch(planted::barrier_removed<false>, dim3(1), 1025, nullptr, memory.out);
  };
  c["read/unit"] = one_warp(clean::strided<float>, m.x, 1, 0);
  c["read/shifted"] = one_warp(clean::strided<float>, m.x, 1, 1);
  c["read/strided"] = one_warp(clean::strided<float>, m.x, 8, 0);
  c["read/same"] = one_warp(clean::strided<float>, m.x, 0, 5);
  c["read/halves"] = one_warp(clean::strided<uint16_t>, reinterpret_cast<uint16_t*>(m.x), 1, 0);
  c["read/doubles"] = one_warp(clean::strided<double>, reinterpret_cast<double*>(m.x), 1, 0);
  c["read/backwards"] = one_warp(clean::strided<float>, m.x, -1, 31);
  c["read/vectors"] = one_warp(clean::vectors, m.x);
  c["read/triangle"] = one_warp(clean::triangle, m.x);
  c["banks/unit"] = one_warp(clean::banks<uint32_t>, 1, 32);
  c["banks/two"] = one_warp(clean::banks<uint32_t>, 2, 32);
  c["banks/odd"] = one_warp(clean::banks<uint32_t>, 3, 32);
  c["banks/all"] = one_warp(clean::banks<uint32_t>, 32, 32);
  c["banks/broadcast"] = one_warp(clean::banks<uint32_t>, 32, 1);
  c["banks/pairs"] = one_warp(clean::banks<uint32_t>, 32, 2);
  c["banks/bytes"] = one_warp(clean::banks<uint8_t>, 1, 32);
  c["banks/wide"] = one_warp(clean::banks<uint64_t>, 1, 32);
  c["banks/wide_two"] = one_warp(clean::banks<uint64_t>, 2, 32);
  c["counters"] = [](Memory& memory) { launch(clean::counters, dim3(2), 64, nullptr, memory.out); };
  return c;
}

void print_json(uint64_t schedule, const std::string& error) {
  std::string escaped;
  for (char ch : error) {
    if (ch == '"' || ch == '\\') escaped += '\\';
    escaped += ch;
  }
  printf("{\"schedule\": %llu, \"error\": \"%s\", \"records\": [", (unsigned long long)schedule,
         escaped.c_str());
  const char* comma = "";
  for (const simt::Record& r : simt::records()) {
    const simt::Counts& n = r.counts;
    const std::pair<const char*, uint64_t> fields[] = {
        {"read", n.global_read_bytes},    {"written", n.global_written_bytes},
        {"loads16", n.loads16},           {"requests", n.global_requests},
        {"sectors", n.sectors},           {"shared_requests", n.shared_requests},
        {"conflicts", n.bank_conflicts},  {"collisions", n.shared_atomic_collisions},
        {"threads", uint64_t(r.threads)}, {"blocks", uint64_t(r.grid[0]) * r.grid[1] * r.grid[2]}};
    printf("%s{\"kernel\": \"%s\"", comma, r.kernel.c_str());
    for (const auto& [name, value] : fields)
      printf(", \"%s\": %llu", name, (unsigned long long)value);
    printf("}");
    comma = ", ";
  }
  printf("]}\n");
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Memory memory;
  const auto cases = all_cases(memory);
  if (argc < 3 || !cases.count(argv[1])) {
    for (const auto& [name, run] : cases) printf("%s\n", name.c_str());
    return argc > 1;
  }
  for (int i = 2; i < argc; ++i) {
    const uint64_t schedule = strtoull(argv[i], nullptr, 10);
    simt::options().schedule = schedule;
    simt::reset_records();
    std::string error;
    try {
      cases.at(argv[1])(memory);
    } catch (const std::exception& e) {
      error = e.what();
    }
    print_json(schedule, error);
  }
  return 0;
}
