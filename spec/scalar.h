// Single values of the job file: numbers with units, durations, names.
#ifndef VLM_SPEC_SCALAR_H_
#define VLM_SPEC_SCALAR_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace vlm::spec {

// Decimal digits with an optional '-'; nothing for anything else or beyond 64 bits.
std::optional<int64_t> ReadInteger(std::string_view text);

// Decimal, with or without point and exponent; finite. Nothing for anything else ("inf", "0x1", "1e999").
std::optional<double> ReadNumber(std::string_view text);

// "524288", "11.2B", "64K": K = 10^3, M = 10^6, B = 10^9, T = 10^12. Exact: "1.2345K" is nothing.
std::optional<int64_t> ReadCount(std::string_view text);

// "500", "500 steps", "1 step"; the number as in ReadCount.
std::optional<int64_t> ReadSteps(std::string_view text);

// Seconds of "5s", "1m30s", "250ms" (units h, m, s, ms); never negative.
std::optional<double> ReadDurationSeconds(std::string_view text);

// A letter or digit, then letters, digits, '-', '_' or '.'; 1 to 63 characters.
bool IsName(std::string_view text);

// One pattern of model parts: "all", or a group (llm, vision, connector), or blocks of a group with Python's
// slice rules: "llm.blocks[-4:]".
bool IsTrainableSelector(std::string_view text);

}  // namespace vlm::spec

#endif  // VLM_SPEC_SCALAR_H_
