// SPDX-License-Identifier: Apache-2.0
// Calls and results as a file: golden_file.py writes the one and reads the other.
#pragma once

#include <cstdint>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace golden {

// One argument or output. In the file: type, number of dimensions, dimensions (int64 each), then
// the data, filled up to 8 bytes.
enum Type : int64_t { kAbsent, kFloat32, kBFloat16, kFloat16, kDouble, kInt32, kInt64, kByte };
constexpr int64_t kSize[] = {0, 4, 2, 2, 8, 4, 8, 1};

struct Field {
  Type type = kAbsent;
  std::vector<int64_t> dims;
  std::vector<uint64_t> room;  // 8-byte aligned

  int64_t numel() const {
    return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<int64_t>());
  }
  template <typename T>
  const T* data() const {
    return type == kAbsent ? nullptr : reinterpret_cast<const T*>(room.data());
  }
  int64_t number() const { return *data<int64_t>(); }
  explicit operator bool() const { return type != kAbsent; }
};

using Fields = std::vector<Field>;

struct Reader {
  std::ifstream in;
  explicit Reader(const char* path) : in(path, std::ios::binary) {
    if (!in) throw std::runtime_error(std::string("cannot read ") + path);
  }
  int64_t word() {
    int64_t v = 0;
    if (!in.read(reinterpret_cast<char*>(&v), 8)) throw std::runtime_error("the file is cut off");
    return v;
  }
  Field field() {
    Field f;
    f.type = Type(word());
    f.dims.resize(size_t(word()));
    for (int64_t& d : f.dims) d = word();
    if (!f) return f;
    f.room.resize(size_t(f.numel() * kSize[f.type] + 7) / 8);
    in.read(reinterpret_cast<char*>(f.room.data()), std::streamsize(f.room.size() * 8));
    return f;
  }
};

// The outputs of a call, in the order in which they are added.
struct Results {
  Fields fields;
  template <typename T>
  T* add(Type type, std::vector<int64_t> dims) {
    Field f;
    f.type = type;
    f.dims = std::move(dims);
    f.room.assign(size_t(f.numel() * kSize[type] + 7) / 8, 0);
    fields.push_back(std::move(f));
    return reinterpret_cast<T*>(fields.back().room.data());
  }
  void write(std::ofstream& out) const {
    const auto word = [&](int64_t v) { out.write(reinterpret_cast<const char*>(&v), 8); };
    word(int64_t(fields.size()));
    for (const Field& f : fields) {
      word(f.type);
      word(int64_t(f.dims.size()));
      for (int64_t d : f.dims) word(d);
      out.write(reinterpret_cast<const char*>(f.room.data()), std::streamsize(f.room.size() * 8));
    }
  }
};

}  // namespace golden
