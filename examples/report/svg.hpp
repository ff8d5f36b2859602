// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

/// Three kinds of chart as inline SVG. Colours are classes (s0, s1, s2 ...) that the page's style sheet gives a value,
/// so a chart follows a light or dark page.
namespace report {

inline std::string number_text(double value, int digits = 3) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

inline std::string escaped(std::string_view text) {
  std::string out;
  for (char const c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

struct series {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
  std::size_t colour = 1;  ///< class s<colour> and l<colour> of the page
};

struct chart_labels {
  std::string title;
  std::string x;
  std::string y;
};

/// A drawing area with axes; data coordinates in, SVG elements out.
class plot {
 public:
  static constexpr double width = 560, height = 300, left = 58, right = 16, top = 38, bottom = 48;

  plot(chart_labels const& labels, double x_low, double x_high, double y_low, double y_high)
      : x_low_(x_low), x_high_(x_high > x_low ? x_high : x_low + 1), y_low_(y_low), y_high_(y_high > y_low ? y_high : y_low + 1) {
    body_ = "<svg viewBox=\"0 0 560 300\" role=\"img\" aria-label=\"" + escaped(labels.title) + "\">\n";
    text(left, 18, "start", "title", labels.title);
    text((left + width - right) / 2, height - 8, "middle", "label", labels.x);
    body_ += "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(14 " + place((top + height - bottom) / 2) +
             ") rotate(-90)\">" + escaped(labels.y) + "</text>\n";
  }

  double across(double x) const { return left + (x - x_low_) / (x_high_ - x_low_) * (width - left - right); }
  double up(double y) const { return height - bottom - (y - y_low_) / (y_high_ - y_low_) * (height - top - bottom); }

  void x_ticks() {
    for (double const x : ticks(x_low_, x_high_)) text(across(x), height - bottom + 16, "middle", "tick", number_text(x, 6));
  }

  void y_ticks() {
    for (double const y : ticks(y_low_, y_high_)) {
      line(left, up(y), width - right, up(y), "grid");
      text(left - 6, up(y) + 4, "end", "tick", number_text(y, 6));
    }
  }

  /// `colours`: one per name.
  void legend(std::vector<std::string> const& names, std::vector<std::size_t> const& colours) {
    double at = width - right;
    for (std::size_t i = names.size(); i-- > 0;) {
      at -= 7.0 * static_cast<double>(names[i].size());
      text(at, 32, "start", "tick", names[i]);
      body_ += "<rect class=\"s" + std::to_string(colours[i]) + "\" x=\"" + place(at - 14) + "\" y=\"23\" width=\"10\" height=\"10\" rx=\"2\"/>\n";
      at -= 26;
    }
  }

  void polyline(std::vector<double> const& x, std::vector<double> const& y, std::size_t colour) {
    body_ += "<polyline class=\"line l" + std::to_string(colour) + "\" points=\"";
    for (std::size_t i = 0; i < x.size(); ++i) body_ += place(across(x[i])) + "," + place(up(y[i])) + " ";
    body_ += "\"/>\n";
  }

  void bar(double x0, double x1, double y, std::size_t colour, std::string_view tip) {
    body_ += "<rect class=\"bar s" + std::to_string(colour) + "\" x=\"" + place(across(x0)) + "\" y=\"" + place(up(y)) +
             "\" width=\"" + place(across(x1) - across(x0)) + "\" height=\"" + place(up(y_low_) - up(y)) + "\"><title>" +
             escaped(tip) + "</title></rect>\n";
  }

  void point(double x, double y, double radius, std::size_t colour, std::string_view tip) {
    body_ += "<circle class=\"s" + std::to_string(colour) + "\" cx=\"" + place(across(x)) + "\" cy=\"" + place(up(y)) +
             "\" r=\"" + place(radius) + "\"><title>" + escaped(tip) + "</title></circle>\n";
  }

  void line(double x0, double y0, double x1, double y1, std::string_view style) {
    body_ += "<line class=\"" + std::string(style) + "\" x1=\"" + place(x0) + "\" y1=\"" + place(y0) + "\" x2=\"" + place(x1) +
             "\" y2=\"" + place(y1) + "\"/>\n";
  }

  void text(double x, double y, std::string_view anchor, std::string_view style, std::string_view words) {
    body_ += "<text class=\"" + std::string(style) + "\" text-anchor=\"" + std::string(anchor) + "\" x=\"" + place(x) +
             "\" y=\"" + place(y) + "\">" + escaped(words) + "</text>\n";
  }

  std::string finish() {
    line(left, height - bottom, width - right, height - bottom, "axis");
    return body_ + "</svg>\n";
  }

  /// Round numbers inside [low, high], about five.
  static std::vector<double> ticks(double low, double high) {
    double const rough = (high - low) / 5.0, magnitude = std::pow(10.0, std::floor(std::log10(rough)));
    double step = 10.0 * magnitude;
    for (double const factor : {1.0, 2.0, 5.0})
      if (factor * magnitude >= rough) {
        step = factor * magnitude;
        break;
      }
    std::vector<double> at;
    for (double tick = std::ceil(low / step - 1e-9) * step; tick <= high + 1e-9 * step; tick += step)
      at.push_back(std::abs(tick) < 1e-9 * step ? 0.0 : tick);
    return at;
  }

 private:
  static std::string place(double value) {
    char digits[64];
    std::snprintf(digits, sizeof digits, "%.1f", value);
    return digits;
  }

  double x_low_, x_high_, y_low_, y_high_;
  std::string body_;
};

inline void legend_of(plot& p, std::vector<series> const& all) {
  std::vector<std::string> names;
  std::vector<std::size_t> colours;
  for (series const& s : all) names.push_back(s.name), colours.push_back(s.colour);
  p.legend(names, colours);
}

inline std::string line_chart(chart_labels const& labels, std::vector<series> const& lines) {
  double x_high = 0.0, low = 0.0, high = 0.0;
  for (series const& s : lines)
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      x_high = std::max(x_high, s.x[i]);
      low = std::min(low, s.y[i]);
      high = std::max(high, s.y[i]);
    }
  plot p(labels, 0.0, x_high, low, high * 1.05);
  p.y_ticks();
  p.x_ticks();
  for (series const& s : lines) p.polyline(s.x, s.y, s.colour);
  if (lines.size() > 1) legend_of(p, lines);
  return p.finish();
}

/// Overlaid histograms of samples, `y` of each series being the samples; share of each series per bin. Samples beyond
/// the central 99 % fall into the outermost bins.
inline std::string histogram(chart_labels const& labels, std::vector<series> const& samples, std::size_t bins = 36) {
  std::vector<double> all;
  for (series const& s : samples) all.insert(all.end(), s.y.begin(), s.y.end());
  if (all.empty()) return "<p>no samples</p>\n";
  std::sort(all.begin(), all.end());
  double const low = std::min(all[all.size() / 200], -1e-3), high = std::max(all[all.size() - 1 - all.size() / 200], 1e-3);
  double const step = (high - low) / static_cast<double>(bins);
  std::vector<std::vector<double>> share(samples.size(), std::vector<double>(bins));
  double tallest = 0.0;
  for (std::size_t s = 0; s < samples.size(); ++s) {
    for (double const v : samples[s].y) {
      double const bin = std::clamp(std::floor((v - low) / step), 0.0, static_cast<double>(bins - 1));
      share[s][static_cast<std::size_t>(bin)] += 1.0 / static_cast<double>(samples[s].y.size());
    }
    tallest = std::max(tallest, *std::max_element(share[s].begin(), share[s].end()));
  }
  plot p(labels, low, high, 0.0, tallest * 1.05);
  p.y_ticks();
  p.x_ticks();
  for (std::size_t s = 0; s < samples.size(); ++s)
    for (std::size_t b = 0; b < bins; ++b)
      if (share[s][b] > 0.0)
        p.bar(low + step * static_cast<double>(b), low + step * static_cast<double>(b + 1), share[s][b], samples[s].colour,
              samples[s].name + ": " + number_text(share[s][b] * 100) + " %");
  p.line(p.across(0.0), plot::top, p.across(0.0), plot::height - plot::bottom, "zero");
  legend_of(p, samples);
  return p.finish();
}

struct bar_group {
  std::string name;
  std::vector<double> values;  ///< one per series, in [0, 1]
};

inline std::string bar_chart(chart_labels const& labels, std::vector<std::string> const& names, std::vector<bar_group> const& groups) {
  plot p(labels, 0.0, static_cast<double>(groups.size()), 0.0, 1.0);
  p.y_ticks();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    double const each = 0.8 / static_cast<double>(names.size()), from = static_cast<double>(g) + 0.1;
    for (std::size_t s = 0; s < groups[g].values.size(); ++s) {
      double const x = from + each * static_cast<double>(s), value = groups[g].values[s];
      p.bar(x + 0.01, x + each - 0.01, value, s, names[s] + ": " + number_text(100 * value) + " %");
      p.text(p.across(x + each / 2), p.up(value) - 3, "middle", "value", number_text(std::round(value * 1000) / 10));
    }
    p.text(p.across(static_cast<double>(g) + 0.5), plot::height - plot::bottom + 16, "middle", "tick", groups[g].name);
  }
  std::vector<std::size_t> colours(names.size());
  for (std::size_t s = 0; s < names.size(); ++s) colours[s] = s;
  p.legend(names, colours);
  return p.finish();
}

}  // namespace report
