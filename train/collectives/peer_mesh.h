// Authenticated connections between every two ranks of an attempt, on one host or several.
#ifndef VLM_TRAIN_COLLECTIVES_PEER_MESH_H_
#define VLM_TRAIN_COLLECTIVES_PEER_MESH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"

namespace vlm::train {

// How long a call may wait, by which clock.
struct Patience {
  absl::Duration deadline;
  const Clock* clock = RealClock();
};

// A file descriptor that closes itself.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { reset(); }
  int get() const { return fd_; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

// Where peers find a rank; what the rendezvous carries.
struct PeerAddress {
  std::string unix_socket;  // path
  std::string tcp;          // "127.0.0.1:41234"
  std::string boot_id;      // of the rank's machine
};

struct MeshIdentity {
  int rank = 0;
  int world = 1;
  uint64_t fence = 0;
  std::string secret;  // of the attempt, 32 bytes
};

// A rank's open ears, created before the rendezvous.
class PeerListener {
 public:
  // Listens on a Unix socket in `run_folder` and on a free TCP port of `host` (a numeric IPv4 address).
  static absl::StatusOr<std::unique_ptr<PeerListener>> Create(const std::string& run_folder, const std::string& host);
  ~PeerListener();  // removes the socket file
  const PeerAddress& address() const { return address_; }
  int unix_fd() const { return unix_.get(); }
  int tcp_fd() const { return tcp_.get(); }

 private:
  PeerListener() = default;
  UniqueFd unix_, tcp_;
  PeerAddress address_;
};

enum class MeshTransport { kUnix, kTcp };

// One connected stream socket per peer (this rank's own entry is empty), non-blocking. Rank r connects to lower
// ranks and accepts higher ones; both sides prove the attempt's secret by HMAC-SHA256 over (fence, rank, channel,
// the other's nonce). `channel` tells meshes of one attempt apart; every rank opens them in the same order.
// Connections that fail the proof are dropped and do not end the attempt. DEADLINE_EXCEEDED names missing ranks.
absl::StatusOr<std::vector<UniqueFd>> ConnectMesh(const MeshIdentity& identity, const PeerListener& listener,
                                                  const std::vector<PeerAddress>& peers, MeshTransport transport,
                                                  uint32_t channel, const Patience& patience);

// Blocking transfers on a non-blocking socket. UNAVAILABLE when the peer closed, DEADLINE_EXCEEDED.
absl::Status SendAll(int fd, const void* data, size_t bytes, const Patience& patience);
absl::Status ReceiveAll(int fd, void* data, size_t bytes, const Patience& patience);
// A descriptor over a Unix socket (SCM_RIGHTS), with one byte of data.
absl::Status SendDescriptor(int socket, int fd, const Patience& patience);
absl::StatusOr<UniqueFd> ReceiveDescriptor(int socket, const Patience& patience);

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_PEER_MESH_H_
