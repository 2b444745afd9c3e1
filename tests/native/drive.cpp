// SPDX-License-Identifier: Apache-2.0
// The fuzz target without libFuzzer, for compilers that lack it:
//   drive SECONDS SEED CORPUS [FAILED]   every file of the corpus, then mutants of them and random
//                                        bytes; the bytes that failed are left in the file FAILED
// Prints one line of JSON.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "source.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t n);

namespace {

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> read_corpus(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return corpus;
}

Bytes random_bytes(native::Source& s) {
  Bytes b(s.word16() % 200);
  for (uint8_t& v : b) v = s.byte();
  return b;
}

Bytes mutant(native::Source& s, const std::vector<Bytes>& corpus) {
  if (corpus.empty() || s.one_in(4)) return random_bytes(s);
  Bytes b = corpus[s.word32() % corpus.size()];
  for (int n = 1 + s.byte() % 4; n > 0; --n) {
    const size_t at = b.empty() ? 0 : s.word32() % b.size();
    switch (s.byte() % 5) {
      case 0:
        b.insert(b.begin() + std::ptrdiff_t(at), s.byte());
        break;
      case 1:
        if (!b.empty()) b.erase(b.begin() + std::ptrdiff_t(at));
        break;
      case 2: {  // the tail of another
        const Bytes& other = corpus[s.word32() % corpus.size()];
        b.resize(at);
        if (at < other.size()) b.insert(b.end(), other.begin() + std::ptrdiff_t(at), other.end());
        break;
      }
      default:
        if (!b.empty()) b[at] = s.flip() ? s.byte() : uint8_t(b[at] ^ 1u << s.byte() % 8);
    }
  }
  return b;
}

}  // namespace

int main(int n, char** argument) {
  if (n < 4) {
    std::fprintf(stderr, "usage: drive SECONDS SEED CORPUS [FAILED]\n");
    return 2;
  }
  const std::vector<Bytes> corpus = read_corpus(argument[3]);
  const auto run = [&](const Bytes& b) {
    // Before the run: a sanitizer ends the program where it stands.
    if (n > 4)
      std::ofstream(argument[4], std::ios::binary)
          .write(reinterpret_cast<const char*>(b.data()), std::streamsize(b.size()));
    LLVMFuzzerTestOneInput(b.data(), b.size());
  };
  for (const Bytes& b : corpus) run(b);
  native::Source s(nullptr, 0, std::strtoull(argument[2], nullptr, 10));
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  long long runs = 0;
  for (const double most = std::atof(argument[1]); seconds() < most; ++runs) run(mutant(s, corpus));
  if (n > 4) std::filesystem::remove(argument[4]);
  std::printf("{\"corpus\": %zu, \"runs\": %lld, \"seconds\": %.1f}\n", corpus.size(), runs,
              seconds());
  return 0;
}
