// Serves a registry at http://<address>/metrics for Prometheus.
#ifndef VLM_TELEMETRY_EXPOSER_H_
#define VLM_TELEMETRY_EXPOSER_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "telemetry/registry.h"

namespace vlm::telemetry {

// Has threads of its own; destruction waits for a scrape in progress.
class Exposer {
 public:
  // `address` is "127.x.y.z:port", "localhost:port" or "[::1]:port"; port 0 chooses a free one. INVALID_ARGUMENT,
  // naming the address, for any other: metrics are not guarded by a token. ALREADY_EXISTS when another program
  // listens there.
  static absl::StatusOr<std::unique_ptr<Exposer>> Create(const std::string& address, const MetricRegistry& registry);
  ~Exposer();
  Exposer(const Exposer&) = delete;
  Exposer& operator=(const Exposer&) = delete;

  const std::string& address() const { return address_; }  // with the port that was chosen

 private:
  class Impl;
  Exposer(std::unique_ptr<Impl> impl, std::string address);
  std::unique_ptr<Impl> impl_;
  const std::string address_;
};

}  // namespace vlm::telemetry

#endif  // VLM_TELEMETRY_EXPOSER_H_
