// The edge to LibTorch: what it throws becomes a status here.
#ifndef VLM_TRAIN_TORCH_EDGE_H_
#define VLM_TRAIN_TORCH_EDGE_H_

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace vlm::train {

// The exception that is being handled, as "<what> failed: <its words>": OutOfMemoryError for memory of the host or of a
// device, else INTERNAL. To be called inside a catch handler alone.
inline absl::Status StatusOfException(std::string_view what) {
  const auto failed = [what](std::string_view words) {
    return absl::StrCat(absl::string_view(what.data(), what.size()),
                        " failed: ", absl::string_view(words.data(), words.size()));
  };
  // LibTorch's CPU allocator and the CUDA libraries have no exception type of their own for it.
  const auto by_words = [&failed](std::string_view words) {
    for (const char* memory : {"can't allocate memory", "out of memory", "ALLOC_FAILED"}) {
      if (absl::StrContains(absl::string_view(words.data(), words.size()), memory)) {
        return OutOfMemoryError(failed(words));
      }
    }
    return absl::InternalError(failed(words));
  };
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return OutOfMemoryError(failed("out of memory"));
  } catch (const c10::OutOfMemoryError& error) {
    return OutOfMemoryError(failed(error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return by_words(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return by_words(error.what());
  } catch (...) {
    return absl::InternalError(failed("an exception that is no std::exception"));
  }
}

// What `body` returns (a Status or a StatusOr); what it throws as StatusOfException.
template <typename Body>
auto CatchTorch(std::string_view what, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    return StatusOfException(what);
  }
}

}  // namespace vlm::train

#endif  // VLM_TRAIN_TORCH_EDGE_H_
