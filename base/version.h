// The release that a program is part of; in `version`, Hello messages and reports.
#ifndef VLM_BASE_VERSION_H_
#define VLM_BASE_VERSION_H_

namespace vlm {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace vlm

#endif  // VLM_BASE_VERSION_H_
