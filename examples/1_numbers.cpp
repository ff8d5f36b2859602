// SPDX-License-Identifier: MIT
//
// Door 1: numbers. Somebody else's trainer has, in plain arrays, what its policy and its reference think of a few
// preference pairs. Six pointers go in; the loss and dL/dlogp of every response come out.
#include <cstddef>
#include <cstdio>

#include <attune/objective/pairwise/dpo.hpp>

namespace theirs {

// log pi of whole responses: sums over their tokens.
constexpr std::size_t pairs = 4;
float const policy_chosen[pairs] = {-21.5f, -40.25f, -9.0f, -33.75f};
float const policy_rejected[pairs] = {-24.0f, -38.5f, -16.0f, -33.75f};
float const reference_chosen[pairs] = {-22.0f, -39.0f, -11.0f, -35.0f};
float const reference_rejected[pairs] = {-22.5f, -39.0f, -12.0f, -35.0f};
float slope_chosen[pairs];
float slope_rejected[pairs];

}  // namespace theirs

int main() {
  using namespace theirs;
  float const loss = attune::dpo_loss<float>({.chosen = {policy_chosen, pairs},
                                              .rejected = {policy_rejected, pairs},
                                              .ref_chosen = {reference_chosen, pairs},
                                              .ref_rejected = {reference_rejected, pairs}},
                                             {.chosen = {slope_chosen, pairs}, .rejected = {slope_rejected, pairs}},
                                             {.beta = 0.5});
  std::printf("DPO loss of %zu pairs: %.4f\n", pairs, static_cast<double>(loss));
  std::printf("pair  dL/dlogp chosen  dL/dlogp rejected\n");
  for (std::size_t i = 0; i < pairs; ++i)
    std::printf("%4zu  %15.4f  %17.4f\n", i, static_cast<double>(slope_chosen[i]),
                static_cast<double>(slope_rejected[i]));

  // The slope of a response is that of each of its tokens: the trainer goes on with its own backward pass from
  //   sum over responses of slope * log pi(response).

  // A step in two micro-batches: each is told the pairs of the whole step, and the parts add up.
  auto const part = [](std::size_t first, std::size_t count) {
    return attune::dpo_loss<float>(
        {.chosen = {policy_chosen + first, count},
         .rejected = {policy_rejected + first, count},
         .ref_chosen = {reference_chosen + first, count},
         .ref_rejected = {reference_rejected + first, count}},
        {.chosen = {slope_chosen + first, count}, .rejected = {slope_rejected + first, count}}, {.beta = 0.5}, pairs);
  };
  float const first_part = part(0, 3), second_part = part(3, 1);
  std::printf("in two parts: %.4f + %.4f = %.4f\n", static_cast<double>(first_part), static_cast<double>(second_part),
              static_cast<double>(first_part + second_part));

  // A mistake is refused before anything is written, and named.
  try {
    attune::dpo_loss<float>({.chosen = {policy_chosen, pairs},
                             .rejected = {policy_rejected, pairs - 1},
                             .ref_chosen = {reference_chosen, pairs},
                             .ref_rejected = {reference_rejected, pairs}},
                            {.chosen = {slope_chosen, pairs}, .rejected = {slope_rejected, pairs}});
  } catch (attune::contract_violation const& mistake) {
    std::printf("refused: %s\n", mistake.what());
  }
}
