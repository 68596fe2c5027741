#include "base/entropy.h"

#include <sys/random.h>

#include <cerrno>

#include "base/check.h"

namespace vlm {

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t got = getrandom(bytes.data() + done, count - done, 0);
    if (got < 0 && errno == EINTR) continue;
    VLM_CHECK(got > 0, "getrandom failed");
    done += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace vlm
