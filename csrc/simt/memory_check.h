// SPDX-License-Identifier: Apache-2.0
// What every access of a kernel passes through: checks, then counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace fusedraw::simt {

enum class Access : uint8_t { kRead, kWrite, kAtomic };

// Out of line on purpose: the return address tells one place of a kernel from another.
void on_global(const void* p, size_t bytes, size_t alignment, Access access);
void on_shared(const void* p, size_t bytes, Access access);
// An atomic on either kind of memory.
void on_atomic(const void* p, size_t bytes);

// The block's array of a declaration, made when its first thread comes by and filled with garbage.
void* shared_array(const void* tag, const char* name, size_t element_bytes, size_t n);
// The dynamic shared memory of the launch, in elements of this size.
void* dynamic_shared_array(const char* name, size_t element_bytes);

std::string show_address(const void* p);

}  // namespace fusedraw::simt
