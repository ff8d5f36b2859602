// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace attune {

template <class Signature>
class function_ref;

/// A callable borrowed for the length of one call: two pointers, no allocation, no ownership.
/// (std::function_ref is C++26.) Expects: the callable outlives the reference; binding a temporary is right for a
/// function argument and wrong for a member.
template <class Result, class... Arguments>
class function_ref<Result(Arguments...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, function_ref> && std::is_invocable_r_v<Result, F&, Arguments...>)
  function_ref(F&& f) noexcept {
    if constexpr (std::is_function_v<std::remove_reference_t<F>>)
      object_ = reinterpret_cast<void*>(std::addressof(f));
    else
      object_ = const_cast<void*>(static_cast<void const*>(std::addressof(f)));
    call_ = [](void* object, Arguments... arguments) -> Result {
      auto&& target = *callee<F>(object);
      if constexpr (std::is_void_v<Result>)
        static_cast<void>(target(std::forward<Arguments>(arguments)...));
      else
        return target(std::forward<Arguments>(arguments)...);
    };
  }

  Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

 private:
  template <class F>
  static std::add_pointer_t<F> callee(void* object) noexcept {
    if constexpr (std::is_function_v<std::remove_reference_t<F>>)
      return reinterpret_cast<std::add_pointer_t<F>>(object);
    else
      return static_cast<std::add_pointer_t<F>>(object);
  }

  void* object_;
  Result (*call_)(void*, Arguments...);
};

}  // namespace attune
