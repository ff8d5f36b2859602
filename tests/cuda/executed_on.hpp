// SPDX-License-Identifier: MIT
#pragma once

/// "simulation" or "device": what the cases of this program are linked to. Defined beside its main test.
extern char const* const executed_on;
