// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <zlib.h>

namespace attune::test {

/// One gzip member that holds the text.
inline std::string gzip(std::string_view text) {
  ::z_stream z{};
  if (::deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("deflateInit2");
  std::string out(::deflateBound(&z, static_cast<::uLong>(text.size())) + 64, '\0');
  std::string in(text);
  z.next_in = reinterpret_cast<::Bytef*>(in.data());
  z.avail_in = static_cast<::uInt>(in.size());
  z.next_out = reinterpret_cast<::Bytef*>(out.data());
  z.avail_out = static_cast<::uInt>(out.size());
  int const result = ::deflate(&z, Z_FINISH);
  out.resize(out.size() - z.avail_out);
  ::deflateEnd(&z);
  if (result != Z_STREAM_END) throw std::runtime_error("deflate");
  return out;
}

}  // namespace attune::test
