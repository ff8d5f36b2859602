// SPDX-License-Identifier: MIT
//
// evidence --object <kernels.o> --log <what ptxas said> --calibration <calibration.o> --budget <budget.txt>
//          [--lines <JSON lines of other tests>] [--mutants <what tests/mutation/run wrote>] [--json <file to write>]
//
// What a compiler's output proves of the kernels without a device, for every architecture in the object: no stack, no
// spills, registers and shared memory within the budget, no local memory in the machine code, and global memory read and
// written sixteen bytes at a time in the loops that the budget names. Prints a table; fails with a list.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "cubin.hpp"

namespace {

std::vector<std::string> problems;

void require(bool holds, std::string const& what) {
  if (!holds) problems.push_back(what);
}

std::string slurp(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<cubin::code> scan_file(std::string const& path) {
  std::string const bytes = slurp(path);
  return cubin::scan({reinterpret_cast<unsigned char const*>(bytes.data()), bytes.size()});
}

/// "void attune::cuda::kernel<attune::token_logps_body<float>, 256u>(...)" is "token_logps_body<float>, 256".
std::string short_name(std::string const& symbol) {
  std::unique_ptr<char, void (*)(void*)> const text(abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, nullptr), std::free);
  std::string name = text ? text.get() : symbol;
  static constexpr char const* opening = "void attune::cuda::kernel<";
  if (name.starts_with(opening)) name = name.substr(std::strlen(opening), name.rfind(">(") - std::strlen(opening));
  for (std::string const& noise : {std::string("attune::"), std::string("device::")})
    for (std::size_t found; (found = name.find(noise)) != std::string::npos;) name.erase(found, noise.size());
  if (name.ends_with('u')) name.pop_back();
  return name;
}

struct resources {
  int registers = -1, shared = 0, stack = -1, spill_stores = -1, spill_loads = -1;
};

using key = std::pair<std::string, unsigned>;  // symbol, architecture

std::map<key, resources> parse_ptxas(std::string const& log) {
  std::map<key, resources> result;
  resources* now = nullptr;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    char symbol[4096];
    unsigned architecture;
    if (auto const at = line.find("Compiling entry function '"); at != std::string::npos) {
      if (std::sscanf(line.c_str() + at, "Compiling entry function '%4095[^']' for 'sm_%u", symbol, &architecture) == 2)
        now = &result[{symbol, architecture}];
    } else if (now != nullptr && line.find("bytes stack frame") != std::string::npos) {
      std::sscanf(line.c_str(), "%d bytes stack frame, %d bytes spill stores, %d bytes spill loads", &now->stack,
                  &now->spill_stores, &now->spill_loads);
    } else if (auto const used = line.find("Used "); now != nullptr && used != std::string::npos) {
      std::sscanf(line.c_str() + used, "Used %d registers", &now->registers);
      if (auto const smem = line.find(" bytes smem"); smem != std::string::npos)
        now->shared = std::atoi(line.c_str() + line.rfind(' ', smem - 1));
      now = nullptr;
    }
  }
  return result;
}

struct limit {
  int registers, shared, loads, stores;
  unsigned exception = 0;       // an architecture whose registers are another matter
  int registers_there = 0;
  bool seen = false;
};

std::map<std::string, limit> read_budget(std::string const& path) {
  std::map<std::string, limit> result;
  std::istringstream lines(slurp(path));
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    auto const bar = line.find('|');
    limit l{};
    int const read = bar == std::string::npos ? 0
                                              : std::sscanf(line.c_str() + bar, "| %d %d %d %d sm_%u: %d", &l.registers, &l.shared,
                                                            &l.loads, &l.stores, &l.exception, &l.registers_there);
    if (read != 4 && read != 6) throw std::runtime_error(path + ": not a line of the budget: " + line);
    std::string const name = line.substr(0, line.find_last_not_of(' ', bar - 1) + 1);
    if (!result.emplace(name, l).second) throw std::runtime_error(path + ": twice: " + name);
  }
  return result;
}

int at(std::map<unsigned, int> const& counts, unsigned bytes) {
  auto const found = counts.find(bytes);
  return found == counts.end() ? 0 : found->second;
}

/// The scanner is believed on an architecture only if it reads these exactly.
void calibrate(std::vector<cubin::code> const& all, std::set<unsigned> const& architectures) {
  std::map<key, cubin::code> by_name;
  for (cubin::code const& c : all) by_name.emplace(key{c.symbol, c.architecture}, c);
  for (unsigned const a : architectures) {
    auto const read = [&](char const* name) -> cubin::code const* {
      auto const found = by_name.find({name, a});
      require(found != by_name.end(), "calibration: no kernel " + std::string(name) + " for sm_" + std::to_string(a));
      return found == by_name.end() ? nullptr : &found->second;
    };
    auto const exact = [&](char const* name, char const* what, int expected, int got) {
      require(expected == got, "calibration: " + std::string(name) + " for sm_" + std::to_string(a) + " has " +
                                   std::to_string(expected) + " " + what + ", read " + std::to_string(got));
    };
    static constexpr std::pair<char const*, unsigned> movers[] = {
        {"one_byte", 1u}, {"two_bytes", 2u}, {"four_bytes", 4u}, {"eight_bytes", 8u}, {"sixteen_bytes", 16u}};
    for (auto const& [name, bytes] : movers)
      if (auto const* c = read(name)) {
        exact(name, "loads of its width", 1, at(c->all.loads, bytes));
        exact(name, "stores of its width", 1, at(c->all.stores, bytes));
        exact(name, "loads", 1, c->all.load_count());
        exact(name, "stores", 1, c->all.store_count());
        exact(name, "loops", 0, c->loops);
        exact(name, "other accesses", 0,
              c->all.local + c->all.generic + c->all.shared_loads + c->all.shared_stores + c->all.shuffles + c->all.barriers);
      }
    if (auto const* c = read("shared_memory")) {
      exact("shared_memory", "shared loads", 1, c->all.shared_loads);
      exact("shared_memory", "shared stores", 1, c->all.shared_stores);
      exact("shared_memory", "barriers", 1, c->all.barriers);
      exact("shared_memory", "local accesses", 0, c->all.local);
    }
    if (auto const* c = read("two_shuffles")) exact("two_shuffles", "shuffles", 2, c->all.shuffles);
    if (auto const* c = read("local_memory"))
      require(c->all.local >= 2, "calibration: local_memory for sm_" + std::to_string(a) + ": local accesses were overlooked");
    if (auto const* c = read("one_loop")) {
      exact("one_loop", "loops", 1, c->loops);
      exact("one_loop", "16-byte loads in loops", 1, at(c->in_main_loops.loads, 16));
      exact("one_loop", "16-byte stores in loops", 1, at(c->in_main_loops.stores, 16));
      exact("one_loop", "loads in loops", 1, c->in_main_loops.load_count());
      exact("one_loop", "4-byte loads", 1, at(c->all.loads, 4));
      exact("one_loop", "4-byte stores", 1, at(c->all.stores, 4));
    }
  }
}

std::string widths(std::map<unsigned, int> const& counts) {
  std::string text;
  for (auto const& [bytes, count] : counts)
    text += (text.empty() ? "" : ", ") + ("\"" + std::to_string(bytes)) + "\": " + std::to_string(count);
  return "{" + text + "}";
}

int run(std::map<std::string, std::string> const& options) {
  auto const codes = scan_file(options.at("--object"));
  auto const ptxas = parse_ptxas(slurp(options.at("--log")));
  auto budget = read_budget(options.at("--budget"));
  std::set<unsigned> architectures;
  for (auto const& c : codes) architectures.insert(c.architecture);
  require(!codes.empty(), "no kernel in " + options.at("--object"));
  calibrate(scan_file(options.at("--calibration")), architectures);

  struct row {
    int registers = 0, shared = 0, loads = 1 << 30, stores = 1 << 30, local = 0, spills = 0;
    std::size_t instructions = 0;
    std::set<unsigned> architectures;
  };
  std::map<std::string, row> rows;
  std::string json_kernels;
  for (cubin::code const& c : codes) {
    std::string const name = short_name(c.symbol), where = name + " for sm_" + std::to_string(c.architecture);
    auto const found = ptxas.find({c.symbol, c.architecture});
    if (found == ptxas.end()) {
      require(false, where + ": the compiler's log does not mention it");
      continue;
    }
    resources const& r = found->second;
    require(r.stack == 0 && r.spill_stores == 0 && r.spill_loads == 0,
            where + ": stack " + std::to_string(r.stack) + ", spills " + std::to_string(r.spill_stores) + " and " +
                std::to_string(r.spill_loads) + " bytes");
    require(c.all.local == 0, where + ": " + std::to_string(c.all.local) + " accesses to local memory");
    require(r.shared == 0 || (c.all.barriers > 0 && c.all.shared_loads > 0 && c.all.shared_stores > 0),
            where + ": shared memory without a barrier, a load or a store");
    int const narrow = c.in_main_loops.load_count() - at(c.in_main_loops.loads, 16) - at(c.in_main_loops.loads, 32);
    require(narrow == 0, where + ": " + std::to_string(narrow) + " loads of less than 16 bytes in the main loops");
    int const loads = at(c.in_main_loops.loads, 16), stores = at(c.in_main_loops.stores, 16);
    if (auto const line = budget.find(name); line == budget.end()) {
      require(false, where + ": not in the budget; it needs the line \"" + name + " | " + std::to_string(r.registers) + " " +
                         std::to_string(r.shared) + " " + std::to_string(loads) + " " + std::to_string(stores) + "\"");
    } else {
      limit& l = line->second;
      l.seen = true;
      auto const at_most = [&](int value, int bound, char const* what) {
        require(value <= bound, where + ": " + std::to_string(value) + " " + what + ", budget " + std::to_string(bound));
      };
      at_most(r.registers, c.architecture == l.exception ? l.registers_there : l.registers, "registers");
      at_most(r.shared, l.shared, "bytes of shared memory");
      require(loads >= l.loads, where + ": " + std::to_string(loads) + " 16-byte loads in main loops, expected " + std::to_string(l.loads));
      require(stores >= l.stores, where + ": " + std::to_string(stores) + " 16-byte stores in main loops, expected " + std::to_string(l.stores));
    }
    row& w = rows[name];
    w.registers = (std::max)(w.registers, r.registers);
    w.shared = (std::max)(w.shared, r.shared);
    w.loads = (std::min)(w.loads, loads);
    w.stores = (std::min)(w.stores, stores);
    w.local += c.all.local;
    w.spills += r.spill_stores + r.spill_loads;
    w.instructions = (std::max)(w.instructions, c.instructions);
    w.architectures.insert(c.architecture);
    json_kernels += std::string(json_kernels.empty() ? "" : ",\n") + "    {\"kernel\": \"" + name +
                    "\", \"architecture\": \"sm_" + std::to_string(c.architecture) + "\", \"registers\": " +
                    std::to_string(r.registers) + ", \"shared_bytes\": " + std::to_string(r.shared) +
                    ", \"spill_bytes\": " + std::to_string(r.spill_stores + r.spill_loads) + ", \"stack_bytes\": " +
                    std::to_string(r.stack) + ", \"local_accesses\": " + std::to_string(c.all.local) +
                    ", \"instructions\": " + std::to_string(c.instructions) + ", \"loops\": " + std::to_string(c.loops) +
                    ", \"barriers\": " + std::to_string(c.all.barriers) +
                    ", \"shuffles\": " + std::to_string(c.all.shuffles) + ", \"loads_by_bytes\": " + widths(c.all.loads) + ", \"stores_by_bytes\": " + widths(c.all.stores) +
                    ", \"loads_in_main_loops_by_bytes\": " + widths(c.in_main_loops.loads) + ", \"stores_in_main_loops_by_bytes\": " +
                    widths(c.in_main_loops.stores) + "}";
  }
  for (auto const& [name, l] : budget) require(l.seen, "budget: there is no kernel \"" + name + "\"");

  std::printf("%-56s %9s %6s %6s %9s %9s %6s\n", "kernel, threads", "registers", "shared", "spills", "LDG.128", "STG.128",
              "code");
  for (auto const& [name, w] : rows) {
    require(w.architectures == architectures, name + ": not compiled for every architecture");
    std::printf("%-56s %9d %6d %6d %9d %9d %6zu\n", name.c_str(), w.registers, w.shared, w.spills, w.loads, w.stores,
                w.instructions);
  }
  std::string list;
  for (unsigned const a : architectures) list += (list.empty() ? "\"sm_" : ", \"sm_") + std::to_string(a) + "\"";
  std::printf("%zu kernels, each for %s: the largest of registers, shared bytes and instructions, the smallest number of\n"
              "16-byte loads and stores in the main loops, where no narrower load is; decoded by our own scanner, which this run calibrated on 9 kernels of known "
              "content\n", rows.size(), list.c_str());

  if (auto const path = options.find("--json"); path != options.end()) {
    std::string lines;
    for (char const* const from : {"--lines", "--mutants"}) {
      auto const other = options.find(from);
      if (other == options.end()) continue;
      std::istringstream text(slurp(other->second));
      for (std::string line; std::getline(text, line);)
        if (!line.empty()) {
          lines += (lines.empty() ? "    " : ",\n    ") + line;
          std::printf("%s\n", line.c_str());
        }
    }
    std::ofstream file(path->second);
    bool const on_device = lines.find("{\"device\": ") != std::string::npos;
    file << "{\n  \"executed_on_a_device\": " << (on_device ? "true" : "false") << ",\n  \"architectures\": [" << list << "],\n  \"kernels\": [\n" << json_kernels
         << "\n  ],\n  \"executed\": [\n" << lines << "\n  ],\n  \"problems\": " << problems.size() << "\n}\n";
    require(static_cast<bool>(file.flush()), "cannot write " + path->second);
  }
  for (std::string const& p : problems) std::fprintf(stderr, "problem: %s\n", p.c_str());
  return problems.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  std::map<std::string, std::string> options;
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  return run(options);
} catch (std::exception const& e) {
  std::fprintf(stderr, "evidence: %s\n", e.what());
  return 1;
}
