// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "svg.hpp"

/// The frame of a report: one HTML file that needs nothing else, no script, no font, no network.
namespace report {

inline constexpr std::string_view page_style = R"(
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #22252a; --soft: #6a6f78; --rule: #e2dfd9;
  --c0: #8b95a5; --c1: #3f78c9; --c2: #e08a3c; --c3: #4b9f6e; --c4: #a2579f; --good: #2f7d4f; --bad: #b4433a; --good-bg: #e6f3ea; --bad-bg: #f9e6e3; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191d; --card: #1f2227; --ink: #e6e4df; --soft: #9aa0aa; --rule: #34383f;
  --c0: #8b95a5; --c1: #6c9fe6; --c2: #eba261; --c3: #70bd90; --c4: #c98ac6; --good: #8fd3a8; --bad: #ee9a90; --good-bg: #20372a; --bad-bg: #432624; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 40px 24px 64px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -0.01em; } h2 { font-size: 20px; margin: 40px 0 12px; }
p.lead { color: var(--soft); margin: 0 0 24px; max-width: 75ch; } p.note { color: var(--soft); font-size: 14px; max-width: 90ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 12px; border-bottom: 1px solid var(--rule); } th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; } tr:last-child td { border-bottom: 0; } td small { color: var(--soft); }
table.talk td, table.talk th { text-align: left; vertical-align: top; } table.talk td:first-child { color: var(--soft); }
.badge { display: inline-block; font-size: 12px; padding: 0 8px; border-radius: 9px; white-space: nowrap; }
.badge.good { background: var(--good-bg); color: var(--good); } .badge.bad { background: var(--bad-bg); color: var(--bad); }
svg { width: 100%; height: auto; display: block; font-family: inherit; }
svg .title { font-size: 14px; font-weight: 600; fill: var(--ink); } svg .label, svg .tick { font-size: 11px; fill: var(--soft); }
svg .value { font-size: 9px; fill: var(--soft); } svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); }
svg .zero { stroke: var(--soft); stroke-dasharray: 3 3; } svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .bar { fill-opacity: 0.72; }
svg .s0 { fill: var(--c0); } svg .s1 { fill: var(--c1); } svg .s2 { fill: var(--c2); } svg .s3 { fill: var(--c3); } svg .s4 { fill: var(--c4); }
svg .l0 { stroke: var(--c0); } svg .l1 { stroke: var(--c1); } svg .l2 { stroke: var(--c2); } svg .l3 { stroke: var(--c3); } svg .l4 { stroke: var(--c4); }
)";

struct table_row {
  std::string name;
  std::vector<std::string> cells;  ///< plain text
};

inline std::string html_table(std::vector<std::string> const& head, std::vector<table_row> const& rows) {
  std::string out = "<div class=\"card\"><table><thead><tr>";
  for (std::string const& h : head) out += "<th>" + escaped(h) + "</th>";
  out += "</tr></thead><tbody>\n";
  for (table_row const& row : rows) {
    out += "<tr><td>" + escaped(row.name) + "</td>";
    for (std::string const& cell : row.cells) out += "<td>" + escaped(cell) + "</td>";
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

inline std::string html_page(std::string_view title, std::string_view lead, std::string_view body) {
  std::string page = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n";
  page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" + escaped(title) + "</title>\n<style>";
  page += page_style;
  page += "</style></head><body>\n<h1>" + escaped(title) + "</h1>\n<p class=\"lead\">" + escaped(lead) + "</p>\n";
  page += body;
  return page + "</body></html>\n";
}

/// Charts side by side, as many as fit.
inline std::string html_grid(std::vector<std::string> const& charts) {
  std::string out = "<div class=\"grid\">\n";
  for (std::string const& chart : charts) out += "<div class=\"card\">" + chart + "</div>\n";
  return out + "</div>\n";
}

}  // namespace report
