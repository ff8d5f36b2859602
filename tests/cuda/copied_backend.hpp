// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <cublasLt.h>
#include <doctest/doctest.h>

#include <attune/concepts/backend.hpp>

#include "device_array.hpp"
#include "kernels.hpp"

/// cuda_backend as a model of the Backend concept in host memory, for the concept's laws: what an operation is given is
/// copied to the device, as far from a multiple of 16 bytes as it lies here, and what it may write is copied back, with
/// all that lies between rows.
template <class S>
class copied_backend {
 public:
  using storage = S;
  using scalar = float;

  explicit copied_backend(kernels::chunks of, std::size_t product_workspace = 0)
      : of_(of), memory_(product_workspace, std::byte{}) {
    REQUIRE(cublasLtCreate(&by_.handle) == CUBLAS_STATUS_SUCCESS);
    if (product_workspace > 0) {
      by_.workspace = memory_.data();
      by_.workspace_bytes = product_workspace;
    }
  }
  ~copied_backend() { (void)cublasLtDestroy(by_.handle); }
  copied_backend(copied_backend const&) = delete;
  copied_backend& operator=(copied_backend const&) = delete;

  void token_logps(attune::matrix_view<S const> logits, std::span<attune::token_id const> targets,
                   attune::row_logps<float> out) {
    matrix<S const> const in(logits);
    rows_out to(out);
    on::token_logps(in.view(), copy(targets).span(), to.there(), stream_);
    to.bring_back();
  }
  void token_logps_adjoint(attune::matrix_view<S const> logits, std::span<attune::token_id const> targets,
                           std::span<float const> log_normalizers, attune::row_slopes<float> slopes,
                           attune::matrix_view<S> dlogits) {
    matrix<S> const gradient(dlogits);
    matrix<S const> const in(logits.data == dlogits.data ? attune::matrix_view<S const>{} : logits);
    slopes_in const s(slopes);
    on::token_logps_adjoint(logits.data == dlogits.data ? attune::matrix_view<S const>(gradient.view()) : in.view(),
                            copy(targets).span(), copy(log_normalizers).span(), s.there(), gradient.view(), stream_);
    gradient.bring_back();
  }

  /// The device's own is taken beside it.
  std::size_t linear_workspace(std::size_t, std::size_t, std::size_t) const { return 0; }

  void linear_token_logps(attune::matrix_view<S const> hidden, attune::matrix_view<S const> head,
                          std::span<attune::token_id const> targets, attune::row_logps<float> out, std::span<float>) {
    matrix<S const> const h(hidden), w(head);
    rows_out to(out);
    room const scratch(of_, hidden, head);
    on::linear_token_logps(of_, h.view(), w.view(), copy(targets).span(), to.there(), scratch.span(), by_, stream_);
    scratch.expect_untouched();
    to.bring_back();
  }
  void linear_token_logps_adjoint(attune::matrix_view<S const> hidden, attune::matrix_view<S const> head,
                                  std::span<attune::token_id const> targets, std::span<float const> log_normalizers,
                                  attune::row_slopes<float> slopes, attune::matrix_view<S> dhidden,
                                  attune::matrix_view<float> dhead, std::span<float>) {
    matrix<S const> const h(hidden), w(head);
    matrix<S> const dh(dhidden);
    matrix<float> const dw(dhead);
    slopes_in const s(slopes);
    room const scratch(of_, hidden, head);
    on::linear_token_logps_adjoint(of_, h.view(), w.view(), copy(targets).span(), copy(log_normalizers).span(), s.there(),
                                   dh.view(), dw.view(), scratch.span(), by_, stream_);
    scratch.expect_untouched();
    dh.bring_back();
    dw.bring_back();
  }

  void token_kl(attune::matrix_view<S const> logits, attune::matrix_view<S const> ref_logits,
                std::span<attune::token_id const> targets, attune::kl_direction direction, attune::row_kl<float> out) {
    matrix<S const> const x(logits), y(ref_logits);
    copy const kl(out.kl), z(out.log_normalizers), w(out.ref_log_normalizers);
    on::token_kl(x.view(), y.view(), copy(targets).span(), direction, {kl.span(), z.span(), w.span()}, stream_);
    kl.bring_back();
    z.bring_back();
    w.bring_back();
  }
  void token_kl_adjoint(attune::matrix_view<S const> logits, attune::matrix_view<S const> ref_logits,
                        std::span<attune::token_id const> targets, attune::kl_direction direction,
                        attune::row_kl<float const> of, std::span<float const> slopes, attune::matrix_view<S> dlogits) {
    matrix<S const> const x(logits), y(ref_logits);
    matrix<S> const gradient(dlogits);
    copy const kl(of.kl), z(of.log_normalizers), w(of.ref_log_normalizers);
    on::token_kl_adjoint(x.view(), y.view(), copy(targets).span(), direction, {kl.span(), z.span(), w.span()},
                         copy(slopes).span(), gradient.view(), stream_);
    gradient.bring_back();
  }

  void segment_sum(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out) {
    copy const to(out);
    kernels::segment_sum(copy(values).span(), copy(offsets).span(), to.span(), stream_);
    to.bring_back();
  }
  void segment_broadcast(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out) {
    copy const to(out);
    kernels::segment_broadcast(copy(values).span(), copy(offsets).span(), to.span(), stream_);
    to.bring_back();
  }
  double squared_norm(std::span<float const> values) {
    using f = kernels::operations<float>;
    device_array<double> const out(1, -1.0), partials(f::squared_norm_workspace(values.size()), -1.0);
    f::squared_norm(copy(values).span(), out.data(), partials.span(), stream_);
    return out.values()[0];
  }
  void adamw(attune::adamw_update<float> update, std::span<float> value, std::span<float const> gradient,
             std::span<float> first, std::span<float> second) {
    copy const v(value), m(first), s(second);
    kernels::operations<float>::adamw(update, v.span(), copy(gradient).span(), m.span(), s.span(), {}, stream_);
    v.bring_back();
    m.bring_back();
    s.bring_back();
  }

 private:
  using on = kernels::operations<S>;

  template <class T>
  class copy {
   public:
    explicit copy(std::span<T> here)
        : here_(here),
          there_({here.begin(), here.end()}, reinterpret_cast<std::uintptr_t>(here.data()) % 16 / sizeof(T)) {}

    std::span<T> span() const { return there_.span(); }
    void bring_back() const { std::ranges::copy(there_.values(), here_.begin()); }

   private:
    std::span<T> here_;
    device_array<std::remove_const_t<T>> there_;
  };

  template <class T>
  class matrix {
   public:
    explicit matrix(attune::matrix_view<T> here)
        : here_(here), elements_({here.data, here.rows == 0 ? 0 : (here.rows - 1) * here.row_stride + here.cols}) {}

    attune::matrix_view<T> view() const {
      return {here_.rows == 0 ? nullptr : elements_.span().data(), here_.rows, here_.cols, here_.row_stride};
    }
    void bring_back() const { elements_.bring_back(); }

   private:
    attune::matrix_view<T> here_;
    copy<T> elements_;
  };

  struct rows_out {
    copy<float> logps, log_normalizers, mean_logps, entropies, collisions;

    explicit rows_out(attune::row_logps<float> of)
        : logps(of.logps), log_normalizers(of.log_normalizers), mean_logps(of.mean_logps), entropies(of.entropies),
          collisions(of.collisions) {}
    attune::row_logps<float> there() const {
      return {logps.span(), log_normalizers.span(), mean_logps.span(), entropies.span(), collisions.span()};
    }
    void bring_back() const {
      for (auto const* one : {&logps, &log_normalizers, &mean_logps, &entropies, &collisions}) one->bring_back();
    }
  };

  struct slopes_in {
    copy<float const> logps, mean_logps, entropies, entropy_slopes, log_normalizers;

    explicit slopes_in(attune::row_slopes<float> of)
        : logps(of.logps), mean_logps(of.mean_logps), entropies(of.entropies), entropy_slopes(of.entropy_slopes),
          log_normalizers(of.log_normalizers) {}
    attune::row_slopes<float> there() const {
      return {logps.span(), mean_logps.span(), entropies.span(), entropy_slopes.span(), log_normalizers.span()};
    }
  };

  /// A workspace that holds NaN and ends where it should.
  class room {
   public:
    room(kernels::chunks of, attune::matrix_view<S const> hidden, attune::matrix_view<S const> head)
        : bytes_(on::workspace_bytes(of, hidden.rows, head.rows, head.cols)), memory_(bytes_ + 64, std::byte{255}) {}

    std::span<std::byte> span() const { return memory_.span().first(bytes_); }
    void expect_untouched() const {
      std::vector<std::byte> const seen = memory_.values();
      CHECK(std::all_of(seen.begin() + static_cast<std::ptrdiff_t>(bytes_), seen.end(),
                        [](std::byte b) { return b == std::byte{255}; }));
    }

   private:
    std::size_t bytes_;
    device_array<std::byte> memory_;
  };

  kernels::chunks of_;
  device_array<std::byte> memory_;
  kernels::products by_;
  device_stream stream_;
};
