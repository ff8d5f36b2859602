// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// Reads the machine code of kernels out of an object file of nvcc's, where the toolkit's own disassembler is not at hand:
/// finds the cubins (ELF files of machine 190) embedded in it (compile with --no-compress), and in their .text sections counts
/// the instructions that touch memory, in all and in the main loops: the tightest loop around each access of sixteen bytes. From Volta on an instruction is 128 bits: operation in the
/// lowest 12, width of an access in bits 73 to 75. None of this is documented, so nothing it says counts until the same run
/// has read kernels of known content: calibration.cu.
namespace cubin {

struct accesses {
  std::map<unsigned, int> loads, stores;  // of global memory, by bytes
  int shared_loads = 0, shared_stores = 0, local = 0, generic = 0, shuffles = 0, barriers = 0;

  int load_count() const { return total(loads); }
  int store_count() const { return total(stores); }

 private:
  static int total(std::map<unsigned, int> const& of) {
    int sum = 0;
    for (auto const& [bytes, count] : of) sum += count;
    return sum;
  }
};

struct code {
  std::string symbol;
  unsigned architecture;  // 90 for sm_90
  std::size_t instructions = 0;
  int loops = 0;
  accesses all, in_main_loops;
};

namespace detail {

struct word {
  std::uint64_t low, high;

  unsigned operation() const { return static_cast<unsigned>(low & 0xfffu); }
  unsigned width() const {
    static constexpr unsigned bytes[] = {1, 1, 2, 2, 4, 8, 16, 32};
    return bytes[high >> 9 & 7u];
  }
  /// A relative branch's distance from the next instruction, in units of four bytes: in bits 34 and up, its last eight bits
  /// apart from them, from 16 on, since Hopper.
  std::int64_t distance(bool split) const {
    std::int64_t const upper = static_cast<std::int32_t>(low >> 32) >> 2;
    return split ? upper * 256 + static_cast<std::int64_t>(low >> 16 & 0xffu) : upper;
  }
};

inline constexpr unsigned branch = 0x947;

template <class T>
T read(std::span<unsigned char const> bytes, std::size_t at) {
  if (at > bytes.size() || sizeof(T) > bytes.size() - at) throw std::runtime_error("a cubin is cut short");
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

inline void count(word w, accesses& into) {
  switch (w.operation()) {
    case 0x381: case 0x981: ++into.loads[w.width()]; break;
    case 0x386: case 0x986: ++into.stores[w.width()]; break;
    case 0x984: ++into.shared_loads; break;
    case 0x388: case 0x988: ++into.shared_stores; break;
    case 0x983: case 0x387: case 0x987: ++into.local; break;
    case 0x380: case 0x980: case 0x385: case 0x985: ++into.generic; break;
    case 0x389: case 0x589: case 0x989: case 0xf89: ++into.shuffles; break;
    case 0x31d: case 0xb1d: case 0x91d: ++into.barriers; break;
    default: break;
  }
}

/// Behind the last instruction stands a branch to itself, a distance of -16 bytes: it tells which encoding this is.
inline code scan(std::string symbol, unsigned architecture, std::span<unsigned char const> text) {
  code result{std::move(symbol), architecture, 0, 0, {}, {}};
  std::vector<word> words;
  for (std::size_t at = 0; at + 16 <= text.size(); at += 16)
    words.push_back({read<std::uint64_t>(text, at), read<std::uint64_t>(text, at + 8)});
  std::size_t end = words.size();
  while (end > 0 && words[end - 1].operation() != branch) --end;  // padding
  if (end == 0) throw std::runtime_error(result.symbol + ": no branch to itself at the end");
  bool const split = words[end - 1].distance(false) != -4;
  if (words[end - 1].distance(split) != -4) throw std::runtime_error(result.symbol + ": the last branch is not one to itself");
  result.instructions = end - 1;
  std::vector<std::pair<std::size_t, std::size_t>> loops;  // first and last instruction
  for (std::size_t i = 0; i + 1 < end; ++i) {
    if (words[i].operation() != branch) continue;
    std::int64_t const target = static_cast<std::int64_t>(i) + 1 + words[i].distance(split) / 4;
    if (target >= 0 && target <= static_cast<std::int64_t>(i)) loops.emplace_back(static_cast<std::size_t>(target), i);
  }
  result.loops = static_cast<int>(loops.size());
  std::vector<bool> in_main_loop(end, false);
  for (std::size_t i = 0; i + 1 < end; ++i) {
    accesses own;
    count(words[i], own);
    if (!own.loads.contains(16) && !own.stores.contains(16)) continue;
    std::pair<std::size_t, std::size_t> const* tightest = nullptr;
    for (auto const& l : loops)
      if (l.first <= i && i <= l.second && (tightest == nullptr || l.second - l.first < tightest->second - tightest->first))
        tightest = &l;
    if (tightest == nullptr) continue;
    for (std::size_t j = tightest->first; j <= tightest->second; ++j) in_main_loop[j] = true;
  }
  for (std::size_t i = 0; i + 1 < end; ++i) {
    count(words[i], result.all);
    if (in_main_loop[i]) count(words[i], result.in_main_loops);
  }
  return result;
}

inline void scan_cubin(std::span<unsigned char const> elf, std::vector<code>& into) {
  unsigned const architecture = read<std::uint32_t>(elf, 48) >> 8 & 0xffu;
  std::uint64_t const table = read<std::uint64_t>(elf, 40);
  std::uint16_t const entry = read<std::uint16_t>(elf, 58), sections = read<std::uint16_t>(elf, 60);
  std::uint16_t const names = read<std::uint16_t>(elf, 62);
  auto const section = [&](unsigned i, std::size_t field) { return read<std::uint64_t>(elf, table + i * entry + field); };
  std::uint64_t const name_table = section(names, 24);
  for (unsigned i = 0; i < sections; ++i) {
    std::size_t const at = name_table + read<std::uint32_t>(elf, table + i * entry);
    std::string name;
    for (std::size_t c = at; read<char>(elf, c) != '\0'; ++c) name += read<char>(elf, c);
    if (!name.starts_with(".text.")) continue;
    std::uint64_t const offset = section(i, 24), size = section(i, 32);
    if (offset > elf.size() || size > elf.size() - offset) throw std::runtime_error("a cubin is cut short");
    into.push_back(scan(name.substr(6), architecture, elf.subspan(offset, size)));
  }
}

}  // namespace detail

/// Every function of every cubin in the file's bytes; throws std::runtime_error where one cannot be read.
inline std::vector<code> scan(std::span<unsigned char const> file) {
  std::vector<code> result;
  static constexpr unsigned char magic[] = {0x7f, 'E', 'L', 'F', 2};
  for (std::size_t i = 0; i + 64 <= file.size(); ++i)
    if (std::memcmp(file.data() + i, magic, sizeof magic) == 0 && detail::read<std::uint16_t>(file, i + 18) == 190)
      detail::scan_cubin(file.subspan(i), result);
  return result;
}

}  // namespace cubin
