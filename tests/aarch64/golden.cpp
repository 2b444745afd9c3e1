// SPDX-License-Identifier: Apache-2.0
// The torch-free part of the library as a program, for processors that torch is not here for:
//   golden ENGINE CALLS RESULTS     runs the calls of a file (golden_file.py writes and reads them)
//   golden ENGINE weights           a hash of weights for each pair of float bits read, BEGIN END
//   golden engines
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>

#include "../native/engine_list.h"
#include "calls.h"

using namespace fusedraw;
using namespace golden;

namespace {

const Engine& engine_named(const std::string& name) {
  for (const Engine* e : available_engines())
    if (name == e->name) return *e;
  throw std::runtime_error("no engine " + name);
}

void run_calls(const Engine& engine, const char* from, const char* into) {
  Reader in(from);
  std::ofstream out(into, std::ios::binary);
  for (int64_t n = in.word(); n > 0; --n) {
    const int64_t op = in.word();
    Fields arguments(size_t(in.word()));
    for (Field& f : arguments) f = in.field();
    Results results;
    results.fields.reserve(32);
    run_call(engine, op, arguments, results);
    results.write(out);
  }
  if (!out.flush()) throw std::runtime_error(std::string("cannot write ") + into);
}

void hash_weights(const Engine& engine) {
  FpEnv mode;
  unsigned long long begin, end;
  while (std::scanf("%llu %llu", &begin, &end) == 2)
    std::printf("%llu\n", static_cast<unsigned long long>(
                              engine.weight_hash(uint32_t(begin), uint32_t(end))));
}

}  // namespace

int main(int n, char** argument) try {
  if (n == 2 && std::strcmp(argument[1], "engines") == 0) {
    for (const Engine* e : available_engines()) std::printf("%s\n", e->name);
    return 0;
  }
  if (n == 3 && std::strcmp(argument[2], "weights") == 0) {
    hash_weights(engine_named(argument[1]));
    return 0;
  }
  if (n != 4) throw std::runtime_error("usage: golden ENGINE CALLS RESULTS");
  run_calls(engine_named(argument[1]), argument[2], argument[3]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "golden: %s\n", error.what());
  return 1;
}
