// SPDX-License-Identifier: Apache-2.0
#include "registry.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "../cpu/engines.h"
#include "../reference/reference.h"

namespace fusedraw {
namespace {

// Slowest first: the last one that the machine can run is the default.
std::vector<const Engine*> all_engines() {
  return {
      &reference_engine(),
      &scalar_engine(),
#if defined(__x86_64__)
      &avx2_engine(),
      &avx512_engine(),
#elif defined(__aarch64__)
      &neon_engine(),
#endif
  };
}

std::atomic<const Engine*> current{nullptr};

}  // namespace

std::vector<std::string> available_engines() {
  std::vector<std::string> names;
  for (const Engine* e : all_engines())
    if (e->available()) names.emplace_back(e->name);
  return names;
}

void set_engine(const std::string& name) {
  std::string known;
  for (const Engine* e : all_engines()) {
    if (!e->available()) continue;
    if (name == e->name) {
      current.store(e);
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(e->name);
  }
  throw std::invalid_argument("fusedraw: instruction set '" + name +
                              "' is unknown or not available here; available: " + known);
}

void choose_engine_from_environment() {
  if (const char* name = std::getenv("FUSEDRAW_ISA"); name != nullptr && *name != '\0')
    set_engine(name);
}

const Engine& current_engine() {
  const Engine* e = current.load(std::memory_order_relaxed);
  if (e == nullptr) {
    set_engine(available_engines().back());
    e = current.load();
  }
  return *e;
}

}  // namespace fusedraw
