// SPDX-License-Identifier: Apache-2.0
// exp2p over all floats of [-64, -0]: prints how many there are, how often a larger t gives less,
// and the largest relative error, against the C library's long double.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "../../csrc/core/weight.h"

int main() {
  // As unsigned integers the negative floats ascend in size: from -64 to -0 they count down.
  float last = 0.0f;
  long long n = 0, falls = 0;
  long double worst = 0.0L;
  for (uint32_t bits = 0xc2800000u;; --bits) {
    float t;
    std::memcpy(&t, &bits, 4);
    const float e = fusedraw::exp2p(t);
    falls += e < last;
    last = e;
    ++n;
    const long double exact = exp2l(t), error = fabsl(e - exact) / exact;
    worst = error > worst ? error : worst;
    if (bits == 0x80000000u) break;
  }
  std::printf("%lld %lld %.4Le\n", n, falls, worst);
}
