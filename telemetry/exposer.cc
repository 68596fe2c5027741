#include "telemetry/exposer.h"

#include <prometheus/exposer.h>

#include <exception>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "telemetry/registry_impl.h"

namespace vlm::telemetry {
namespace {

constexpr size_t kThreads = 1;  // one scraper, and a second waits
constexpr int kPortMax = 65535;

bool IsLoopback(const std::string& host) {
  if (host == "[::1]") return true;
  if (!host.starts_with("127.")) return false;
  int dots = 0;
  for (const char c : host) {
    if (c == '.') {
      ++dots;
    } else if (c < '0' || c > '9') {
      return false;
    }
  }
  return dots == 3;
}

// The host as the HTTP server wants it and the port.
absl::StatusOr<std::pair<std::string, int>> ParseLoopback(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = colon == std::string::npos ? "" : address.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  int port = -1;
  const bool numeric = colon != std::string::npos && absl::SimpleAtoi(address.substr(colon + 1), &port);
  if (!numeric || port < 0 || port > kPortMax || !IsLoopback(host)) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics are served on this machine only; use 127.0.0.1:<port>, got: ", address));
  }
  return std::make_pair(host, port);
}

}  // namespace

class Exposer::Impl {
 public:
  Impl(const std::string& address, const std::shared_ptr<prometheus::Collectable>& registry)
      : exposer(address, kThreads), registry_(registry) {
    exposer.RegisterCollectable(registry_);
  }
  prometheus::Exposer exposer;

 private:
  const std::shared_ptr<prometheus::Collectable> registry_;
};

Exposer::Exposer(std::unique_ptr<Impl> impl, std::string address)
    : impl_(std::move(impl)), address_(std::move(address)) {}
Exposer::~Exposer() = default;

absl::StatusOr<std::unique_ptr<Exposer>> Exposer::Create(const std::string& address, const MetricRegistry& registry) {
  VLM_ASSIGN_OR_RETURN(const auto parsed, ParseLoopback(address));
  const auto& [host, port] = parsed;
  // The library reports a failure to listen by an exception.
  try {
    auto impl = std::make_unique<Impl>(absl::StrCat(host, ":", port), registry.impl_);
    const int bound = impl->exposer.GetListeningPorts().at(0);
    return std::unique_ptr<Exposer>(new Exposer(std::move(impl), absl::StrCat(host, ":", bound)));
  } catch (const std::exception& error) {
    return absl::AlreadyExistsError(
        absl::StrCat("metrics address cannot be listened on; is another program there? ", address, ": ", error.what()));
  }
}

}  // namespace vlm::telemetry
