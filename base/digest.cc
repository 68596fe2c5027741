#include "base/digest.h"

#include <openssl/evp.h>

#include "base/check.h"

namespace vlm {
namespace {

int HexValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

std::string Digest::Hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const uint8_t byte : bytes) {
    hex += kDigits[byte >> 4];
    hex += kDigits[byte & 15];
  }
  return hex;
}

absl::StatusOr<Digest> Digest::FromHex(std::string_view hex) {
  Digest digest;
  if (hex.size() != 2 * digest.bytes.size()) return absl::InvalidArgumentError("a digest has 64 hex digits");
  for (size_t i = 0; i < digest.bytes.size(); ++i) {
    const int high = HexValue(hex[2 * i]), low = HexValue(hex[2 * i + 1]);
    if (high < 0 || low < 0) return absl::InvalidArgumentError("a digest has only lower-case hex digits");
    digest.bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return digest;
}

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

namespace {

// EVP_sha256() would be looked up among OpenSSL's providers at every use.
const EVP_MD* Fetched() {
  static const EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  VLM_CHECK(sha256 != nullptr, "OpenSSL offers no SHA-256");
  return sha256;
}

}  // namespace

Sha256::Sha256() : state_(std::make_unique<State>()) {
  VLM_CHECK(EVP_DigestInit_ex(state_->context, Fetched(), nullptr) == 1, "OpenSSL offers no SHA-256");
}

Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  VLM_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1, "SHA-256 update after Finish");
}

Digest Sha256::Finish() {
  Digest digest;
  VLM_CHECK(EVP_DigestFinal_ex(state_->context, digest.bytes.data(), nullptr) == 1, "SHA-256 finished twice");
  return digest;
}

Digest Sha256Of(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return sha.Finish();
}

Digest Sha256Of(std::string_view text) { return Sha256Of(std::as_bytes(std::span(text.data(), text.size()))); }

}  // namespace vlm
