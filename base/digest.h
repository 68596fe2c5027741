// SHA-256, the identity of files, artifacts and stages.
#ifndef VLM_BASE_DIGEST_H_
#define VLM_BASE_DIGEST_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm {

struct Digest {
  std::array<uint8_t, 32> bytes{};
  std::string Hex() const;                                      // 64 lower-case digits
  static absl::StatusOr<Digest> FromHex(std::string_view hex);  // INVALID_ARGUMENT unless 64 hex digits
  friend auto operator<=>(const Digest&, const Digest&) = default;
};

// Incremental SHA-256. Not thread-safe. Finish() may be called once.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text.data(), text.size()))); }
  Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest Sha256Of(std::string_view text);
Digest Sha256Of(std::span<const std::byte> bytes);

}  // namespace vlm

#endif  // VLM_BASE_DIGEST_H_
