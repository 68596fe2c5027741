// Unpredictable bytes from the operating system, for tokens and identities. Never for anything that must repeat.
#ifndef VLM_BASE_ENTROPY_H_
#define VLM_BASE_ENTROPY_H_

#include <cstddef>
#include <string>

namespace vlm {

// getrandom(2). Thread-safe; ends the process when the system gives none.
std::string RandomBytes(size_t count);

}  // namespace vlm

#endif  // VLM_BASE_ENTROPY_H_
