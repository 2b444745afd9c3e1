// SPDX-License-Identifier: Apache-2.0
#include "cases.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

#include "../../csrc/cpu/fp_env.h"
#include "operations.h"

namespace native {
namespace {

template <typename Bits>
bool same_floats(const Output& a, const Output& b, Bits exponent, Bits sign) {
  const Bits *p = static_cast<const Bits*>(a.data), *q = static_cast<const Bits*>(b.data);
  for (size_t i = 0; i < a.bytes / sizeof(Bits); ++i) {
    const auto nan = [&](Bits v) { return Bits(v & Bits(~sign)) > exponent; };
    if (p[i] != q[i] && !(nan(p[i]) && nan(q[i]))) return false;
  }
  return true;
}

bool same(const Output& a, const Output& b) {
  if (a.bytes != b.bytes || a.kind != b.kind) return false;
  switch (a.kind) {
    case Output::kFloat32:
      return same_floats<uint32_t>(a, b, 0x7f800000u, 0x80000000u);
    case Output::kBFloat16:
      return same_floats<uint16_t>(a, b, 0x7f80u, 0x8000u);
    case Output::kFloat16:
      return same_floats<uint16_t>(a, b, 0x7c00u, 0x8000u);
    default:
      return a.bytes == 0 || std::memcmp(a.data, b.data, a.bytes) == 0;
  }
}

std::string in_hex(const Output& o) {
  std::string text;
  char part[4];
  for (size_t i = 0; i < std::min<size_t>(o.bytes, 64); ++i) {
    std::snprintf(part, sizeof(part), "%02x", static_cast<const uint8_t*>(o.data)[i]);
    text += part;
  }
  return text;
}

}  // namespace

std::string difference(const Results& got, const Results& expected) {
  if (got.size() != expected.size()) return "the number of outputs";
  for (size_t i = 0; i < got.size(); ++i)
    if (!same(got[i], expected[i]))
      return std::string(got[i].name) + ": got " + in_hex(got[i]) + ", expected " +
             in_hex(expected[i]);
  return "";
}

Pool pretended_pool(int threads) {
  Pool pool;
  pool.threads = threads;
  pool.run = [](void*, int64_t n, void (*task)(void*, int64_t), void* argument) {
    for (int64_t i = n - 1; i >= 0; --i) task(argument, i);
  };
  return pool;
}

void on_threads(int threads, int64_t n, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&] {
      FpEnv mode;
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) task(i);
    });
  for (std::thread& t : running) t.join();
}

Pool threaded_pool(int threads) {
  static thread_local int count;
  count = threads;
  Pool pool;
  pool.threads = threads;
  pool.context = &count;
  pool.run = [](void* context, int64_t n, void (*task)(void*, int64_t), void* argument) {
    on_threads(*static_cast<int*>(context), n, [&](int64_t i) { task(argument, i); });
  };
  return pool;
}

namespace {

using Maker = std::unique_ptr<Case> (*)(Inputs&);
struct Operation {
  const char* name;
  Maker make;
};
constexpr Operation kAll[kOperations] = {
    {"sample", make_sample},           {"sample_processed", make_processed},
    {"softmax", make_softmax},         {"filter", make_filter},
    {"multinomial", make_multinomial}, {"token_logprob", make_token_logprob},
    {"mixture", make_mixture},         {"route", make_route},
    {"verify", make_verify},
};

}  // namespace

const char* operation_name(int operation) { return kAll[operation].name; }

std::unique_ptr<Case> make_case(Source& source, Memory& memory, const Fixed& fixed) {
  Inputs inputs(source, memory, fixed);
  const int chosen = source.byte() % kOperations;
  const int operation = fixed.operation >= 0 ? fixed.operation : chosen;
  std::unique_ptr<Case> made = kAll[operation].make(inputs);
  made->about = std::string(kAll[operation].name) + " " + made->about;
  return made;
}

}  // namespace native
