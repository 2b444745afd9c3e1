// SPDX-License-Identifier: Apache-2.0
// What is no tensor operation: instruction sets, build facts, and the pieces of the law that tests
// and documentation look at one by one. Importing the module also registers the operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../ops/forced.h"
#include "../ops/registry.h"

namespace py = pybind11;
using namespace fusedraw;

namespace {

py::dict build_info() {
  py::dict d;
  d["stream_version"] = kStreamVersion;
#if defined(__clang__)
  d["compiler"] = "clang " __clang_version__;
#else
  d["compiler"] = "gcc " __VERSION__;
#endif
#ifdef FUSEDRAW_CUDA_ARCHS
  d["nvcc"] = FUSEDRAW_NVCC_VERSION;
  d["cuda_archs"] = FUSEDRAW_CUDA_ARCHS;
#else
  d["nvcc"] = "";
  d["cuda_archs"] = "";
#endif
  return d;
}

float exp2p_checked(float t) {
  if (!(t <= 0.0f && t >= -126.0f)) throw py::value_error("exp2p: t must lie in [-126, 0]");
  return exp2p(t);
}

uint64_t weight_checked(float t) {
  if (!(t <= 0.0f)) throw py::value_error("weight: t must be <= 0");
  return t <= kWeightFloor ? 0 : fixed43(exp2p(t));
}

void force_noise(const std::vector<std::tuple<uint32_t, int64_t, uint64_t>>& list) {
  forced_noise().clear();
  for (const auto& [purpose, id, r64] : list) forced_noise().push_back({purpose, id, r64});
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  choose_engine_from_environment();
  m.def("isa_list", &available_engines, "Engines that run on this machine, slowest first.");
  m.def("isa", [] { return std::string(current_engine().name); }, "The engine in use.");
  m.def("set_isa", &set_engine, "Use the engine of this name from now on, in every thread.");
  m.def("build_info", &build_info);
  m.def(
      "philox",
      [](uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
        const Philox4 o = philox4x32_10(k0, k1, c0, c1, c2, c3);
        return std::make_tuple(o.o0, o.o1, o.o2, o.o3);
      },
      "One Philox4x32-10 block.");
  m.def("exp2p", &exp2p_checked, "The law's 2^t for t in [-126, 0].");
  m.def("weight", &weight_checked, "The integer weight of t <= 0.");
  m.def("exponential", &exponential, "E of a 64-bit noise value.");
  m.def(
      "weight_hash",
      [](uint32_t begin, uint32_t end) {
        py::gil_scoped_release release;
        return current_engine().weight_hash(begin, end);
      },
      "Hash of the weights of all floats with bits in [begin, end), by the engine in use.");
  m.def("force_noise", &force_noise,
        "Tests only: replace r64 of (purpose, id) for every key; an empty list ends it.");
}
