// SPDX-License-Identifier: Apache-2.0
// Reads the symbol table of the file that a function was loaded from: kernels have internal
// linkage, so dladdr does not know them.
#include "symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace fusedraw::simt {

namespace {

std::string without_parameters(const std::string& name) {
  // From the end: the parameter list is the last one in parentheses that stands in no template.
  if (name.empty() || name.find('(') == std::string::npos) return name;
  size_t end = name.rfind(')');
  if (end == std::string::npos) return name;
  int depth = 0;
  size_t i = end + 1;
  while (i-- > 0) {
    if (name[i] == ')') ++depth;
    if (name[i] == '(' && --depth == 0) break;
  }
  std::string head = name.substr(0, i);
  // A template's name begins with its return type.
  return head.rfind("void ", 0) == 0 ? head.substr(5) : head;
}

std::string demangled(const char* symbol) {
  int status = 0;
  char* text = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
  const std::string name = status == 0 && text ? without_parameters(text) : symbol;
  free(text);
  return name;
}

// A file in memory for as long as it is looked at.
class File {
 public:
  explicit File(const char* path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status{};
    if (file >= 0 && fstat(file, &status) == 0 && status.st_size > 0) {
      void* p = mmap(nullptr, size_t(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
      if (p != MAP_FAILED) {
        data_ = static_cast<const char*>(p);
        bytes_ = size_t(status.st_size);
      }
    }
    if (file >= 0) close(file);
  }
  ~File() {
    if (data_) munmap(const_cast<char*>(data_), bytes_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // n of T at `offset`; null where the file is too short.
  template <typename T>
  const T* at(size_t offset, size_t n = 1) const {
    return offset + n * sizeof(T) <= bytes_ ? reinterpret_cast<const T*>(data_ + offset) : nullptr;
  }

 private:
  const char* data_ = nullptr;
  size_t bytes_ = 0;
};

// The mangled name of the function that begins at `address` in the file's own numbering.
std::string symbol_in(const char* path, ElfW(Addr) address) {
  const File file(path);
  const auto* header = file.at<ElfW(Ehdr)>(0);
  if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return "";
  const auto* sections = file.at<ElfW(Shdr)>(header->e_shoff, header->e_shnum);
  if (!sections) return "";
  for (unsigned i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB || sections[i].sh_link >= header->e_shnum) continue;
    const size_t n = sections[i].sh_size / sizeof(ElfW(Sym));
    const auto* symbols = file.at<ElfW(Sym)>(sections[i].sh_offset, n);
    const auto& names = sections[sections[i].sh_link];
    const char* text = file.at<char>(names.sh_offset, names.sh_size);
    if (!symbols || !text) return "";
    for (size_t k = 0; k < n; ++k)
      if (symbols[k].st_value == address && ELF64_ST_TYPE(symbols[k].st_info) == STT_FUNC)
        return text + symbols[k].st_name;
  }
  return "";
}

std::string look_up(const void* function) {
  Dl_info info{};
  link_map* map = nullptr;
  if (dladdr1(function, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) && map) {
    if (info.dli_sname && info.dli_saddr == function) return demangled(info.dli_sname);
    const char* path = map->l_name[0] ? map->l_name : "/proc/self/exe";
    const std::string symbol = symbol_in(path, ElfW(Addr)(function) - map->l_addr);
    if (!symbol.empty()) return demangled(symbol.c_str());
  }
  char text[40];
  snprintf(text, sizeof text, "function at %p", function);
  return text;
}

}  // namespace

std::string function_name(const void* function) {
  static std::map<const void*, std::string> known;
  auto found = known.find(function);
  if (found == known.end()) found = known.emplace(function, look_up(function)).first;
  return found->second;
}

}  // namespace fusedraw::simt
