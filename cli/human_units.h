// Numbers as people read them.
#ifndef VLM_CLI_HUMAN_UNITS_H_
#define VLM_CLI_HUMAN_UNITS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace vlm::cli {

// "0.0 s" to "9.9 s", "42 s", "1m 20s", "2h 05m", "3d 04h". Negative durations (clocks differ) count as none.
std::string HumanDuration(absl::Duration duration);
// "5.2 s ago"; "-" for InfinitePast.
std::string HumanAgo(absl::Time then, absl::Time now);
// "512 B", "1.5 KiB", "3.2 GiB".
std::string HumanBytes(uint64_t bytes);
// "0.53", "9.1", "950", "12.3k", "1.20M".
std::string HumanRate(double per_second);
// "2.314", "0.00031"; "nan" and "inf" as they are.
std::string HumanLoss(double loss);

}  // namespace vlm::cli

#endif  // VLM_CLI_HUMAN_UNITS_H_
