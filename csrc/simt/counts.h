// SPDX-License-Identifier: Apache-2.0
// What a launch did to memory, counted exactly (bytes, loads) or per warp request (sectors, bank
// conflicts).
//
// A warp request is the accesses of a warp's lanes that come from the same place in the code and
// are each lane's n-th from there since the lanes last met; exact where lanes run alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fusedraw::simt {

struct Counts {
  uint64_t global_read_bytes = 0, global_written_bytes = 0;  // an atomic counts as both
  uint64_t loads16 = 0;                                      // 16-byte loads, one per lane
  uint64_t global_requests = 0, sectors = 0;                 // sectors are 32 bytes
  uint64_t shared_requests = 0, bank_conflicts = 0;          // cycles beyond the least possible
  uint64_t shared_atomic_collisions = 0;  // lanes of a request that found another at their word
};

struct Record {
  std::string kernel;
  unsigned grid[3] = {0, 0, 0};
  int threads = 0;
  Counts counts;
};

// Of every launch since the last reset, in order, by any thread.
std::vector<Record> records();
void reset_records();

}  // namespace fusedraw::simt
