// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string_view>

/// What tests proved, in numbers. The tests hold on their own; where the environment variable ATTUNE_PROOFS names a file,
/// each call also appends one line of JSON to it, which tests/proofs.cmake adds up. `objective` is the name in the README's
/// table of objectives ("hinge", "kto", "ppo").
namespace proofs {

/// Derivatives against dual numbers or a complex step, over every element: option combinations, seeds for each, worst
/// relative error, and the worst of central differences.
void derivatives(std::string_view objective, std::size_t combinations, std::size_t seeds, double worst,
                 double worst_central_difference);

/// Value and gradient against files made by another implementation. `oracle`: "TRL", "PyTorch" or "mpmath".
void golden(std::string_view objective, std::string_view oracle, std::size_t cases, double worst_value,
            double worst_gradient);

/// One thing that theory says must hold, in words.
void law(std::string_view objective, std::string_view words);

/// Inputs at the edge of what numbers can say: the exact limit, or a typed error that names the place.
void extremes(std::string_view objective, std::size_t cases, std::size_t failed);

}  // namespace proofs
