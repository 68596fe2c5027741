#include "train/collectives/peer_mesh.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vlm::train {
namespace {

using Nonce = std::array<uint8_t, 32>;

constexpr uint32_t kMagic = 0x564c4d43;  // "VLMC"
constexpr absl::Duration kHelloDeadline = absl::Seconds(5);
constexpr int kPollSliceMs = 50;

struct Hello {
  uint32_t magic = kMagic;
  int32_t rank = 0;
  int32_t world = 0;
  uint32_t channel = 0;
  uint64_t fence = 0;
  Nonce nonce{};
};

absl::Status SocketError(const std::string& action) { return ErrnoStatus(errno, action); }

// A moment of a clock until which a call may wait.
struct Deadline {
  explicit Deadline(const Patience& patience)
      : end(patience.clock->Monotonic() + patience.deadline), clock(patience.clock) {}
  // What is left, at least 0.
  Patience Left() const { return {std::max(absl::ZeroDuration(), end - clock->Monotonic()), clock}; }
  // In whole milliseconds, at least 0.
  int LeftMs() const {
    const absl::Duration left = Left().deadline;
    return left == absl::ZeroDuration() ? 0 : static_cast<int>(absl::ToInt64Milliseconds(left)) + 1;
  }
  absl::Duration end;
  const Clock* clock;
};

absl::Status WaitFor(int fd, short events, const Deadline& deadline) {
  while (true) {
    pollfd entry{fd, events, 0};
    const int left = deadline.LeftMs();
    const int ready = poll(&entry, 1, left);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return SocketError("poll a peer's socket");
    if (left == 0) return absl::DeadlineExceededError("a peer did not answer in time");
  }
}

bool ParseTcp(const std::string& address, sockaddr_in* out) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return false;
  std::memset(out, 0, sizeof(*out));
  out->sin_family = AF_INET;
  out->sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  return inet_pton(AF_INET, address.substr(0, colon).c_str(), &out->sin_addr) == 1;
}

bool ParseUnix(const std::string& path, sockaddr_un* out) {
  std::memset(out, 0, sizeof(*out));
  out->sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(out->sun_path)) return false;
  std::memcpy(out->sun_path, path.data(), path.size());
  return true;
}

Nonce ProofOf(const MeshIdentity& identity, int prover, uint32_t channel, const Nonce& challenge) {
  std::string text = absl::StrCat("vlm-collective ", identity.fence, " ", prover, " ", channel, " ");
  text.append(reinterpret_cast<const char*>(challenge.data()), challenge.size());
  Nonce proof{};
  unsigned length = 0;
  HMAC(EVP_sha256(), identity.secret.data(), static_cast<int>(identity.secret.size()),
       reinterpret_cast<const uint8_t*>(text.data()), text.size(), proof.data(), &length);
  return proof;
}

// Both sides: send hello, read hello, send proof of the other's nonce, check the proof of ours. Returns the peer's
// rank.
absl::StatusOr<int> Authenticate(int fd, const MeshIdentity& identity, uint32_t channel, const Patience& patience) {
  Hello mine;
  mine.rank = identity.rank;
  mine.world = identity.world;
  mine.channel = channel;
  mine.fence = identity.fence;
  if (RAND_bytes(mine.nonce.data(), static_cast<int>(mine.nonce.size())) != 1) {
    return absl::InternalError("no random bytes for a collective hello");
  }
  Hello theirs;
  VLM_RETURN_IF_ERROR(SendAll(fd, &mine, sizeof(mine), patience));
  VLM_RETURN_IF_ERROR(ReceiveAll(fd, &theirs, sizeof(theirs), patience));
  if (theirs.magic != kMagic || theirs.fence != identity.fence || theirs.world != identity.world ||
      theirs.channel != channel || theirs.rank < 0 || theirs.rank >= identity.world || theirs.rank == identity.rank) {
    return absl::PermissionDeniedError("a connection to this rank is not of its attempt");
  }
  const Nonce proof = ProofOf(identity, identity.rank, channel, theirs.nonce);
  VLM_RETURN_IF_ERROR(SendAll(fd, proof.data(), proof.size(), patience));
  Nonce answer;
  VLM_RETURN_IF_ERROR(ReceiveAll(fd, answer.data(), answer.size(), patience));
  const Nonce expected = ProofOf(identity, theirs.rank, channel, mine.nonce);
  if (CRYPTO_memcmp(answer.data(), expected.data(), expected.size()) != 0) {
    return absl::PermissionDeniedError("a connection to this rank does not know the attempt's secret");
  }
  return theirs.rank;
}

void SetNoDelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

absl::StatusOr<UniqueFd> ConnectTo(const PeerAddress& peer, MeshTransport transport, const Deadline& deadline) {
  sockaddr_storage storage;
  socklen_t length;
  if (transport == MeshTransport::kUnix) {
    if (!ParseUnix(peer.unix_socket, reinterpret_cast<sockaddr_un*>(&storage))) {
      return absl::InvalidArgumentError(absl::StrCat("peer's Unix socket path does not fit: ", peer.unix_socket));
    }
    length = sizeof(sockaddr_un);
  } else {
    if (!ParseTcp(peer.tcp, reinterpret_cast<sockaddr_in*>(&storage))) {
      return absl::InvalidArgumentError(absl::StrCat("peer's address does not parse: ", peer.tcp));
    }
    length = sizeof(sockaddr_in);
  }
  const int family = transport == MeshTransport::kUnix ? AF_UNIX : AF_INET;
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return SocketError("open a socket to a peer");
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) {
    if (errno != EINPROGRESS && errno != EAGAIN) return SocketError("connect to a peer");
    VLM_RETURN_IF_ERROR(WaitFor(fd.get(), POLLOUT, deadline));
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return ErrnoStatus(error, "connect to a peer");
  }
  if (family == AF_INET) SetNoDelay(fd.get());
  return fd;
}

struct MeshChannel {
  MeshTransport transport;
  uint32_t channel;
};

// Connects until `peer` proves itself: a peer still busy with an earlier channel drops the connection.
absl::StatusOr<UniqueFd> ConnectToRank(const MeshIdentity& identity, int peer, const PeerAddress& address,
                                       MeshChannel mesh, const Deadline& deadline) {
  while (true) {
    // The peer listened before the rendezvous, so a refused connection means that it is gone.
    VLM_ASSIGN_OR_RETURN(UniqueFd fd, ConnectTo(address, mesh.transport, deadline));
    const absl::StatusOr<int> found = Authenticate(fd.get(), identity, mesh.channel, deadline.Left());
    if (found.ok() && *found == peer) return fd;
    if (found.ok()) return absl::PermissionDeniedError(absl::StrCat("rank ", *found, " answered in its place"));
    if (!absl::IsUnavailable(found.status()) || deadline.LeftMs() == 0) return found.status();
    poll(nullptr, 0, kPollSliceMs / 10);
  }
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int UniqueFd::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void UniqueFd::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<std::unique_ptr<PeerListener>> PeerListener::Create(const std::string& run_folder,
                                                                   const std::string& host) {
  std::unique_ptr<PeerListener> listener(new PeerListener);
  listener->address_.unix_socket = absl::StrCat(run_folder, "/peers");
  sockaddr_un local;
  if (!ParseUnix(listener->address_.unix_socket, &local)) {
    return absl::InvalidArgumentError(absl::StrCat("run folder's path is too long for a Unix socket: ", run_folder));
  }
  listener->unix_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unlink(local.sun_path);
  if (bind(listener->unix_.get(), reinterpret_cast<sockaddr*>(&local), sizeof(local)) != 0 ||
      listen(listener->unix_.get(), SOMAXCONN) != 0) {
    return SocketError(absl::StrCat("listen on ", listener->address_.unix_socket));
  }
  sockaddr_in any;
  if (!ParseTcp(absl::StrCat(host, ":0"), &any)) {
    return absl::InvalidArgumentError(absl::StrCat("not a numeric IPv4 address to listen on: ", host));
  }
  listener->tcp_ = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  socklen_t length = sizeof(any);
  if (bind(listener->tcp_.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)) != 0 ||
      listen(listener->tcp_.get(), SOMAXCONN) != 0 ||
      getsockname(listener->tcp_.get(), reinterpret_cast<sockaddr*>(&any), &length) != 0) {
    return SocketError(absl::StrCat("listen on a port of ", host));
  }
  listener->address_.tcp = absl::StrCat(host, ":", ntohs(any.sin_port));
  const UniqueFd boot(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char boot_id[36];
  if (boot.get() < 0 || read(boot.get(), boot_id, sizeof(boot_id)) != sizeof(boot_id)) {
    return SocketError("read the machine's boot id");
  }
  listener->address_.boot_id.assign(boot_id, sizeof(boot_id));
  return listener;
}

PeerListener::~PeerListener() {
  if (!address_.unix_socket.empty()) unlink(address_.unix_socket.c_str());
}

absl::StatusOr<std::vector<UniqueFd>> ConnectMesh(const MeshIdentity& identity, const PeerListener& listener,
                                                  const std::vector<PeerAddress>& peers, MeshTransport transport,
                                                  uint32_t channel, const Patience& patience) {
  const Deadline deadline(patience);
  std::vector<UniqueFd> sockets(static_cast<size_t>(identity.world));
  for (int peer = 0; peer < identity.rank; ++peer) {
    absl::StatusOr<UniqueFd> fd =
        ConnectToRank(identity, peer, peers[static_cast<size_t>(peer)], {transport, channel}, deadline);
    if (!fd.ok()) return Annotate(fd.status(), absl::StrCat("connect to rank ", peer));
    sockets[static_cast<size_t>(peer)] = *std::move(fd);
  }
  const int ear = transport == MeshTransport::kUnix ? listener.unix_fd() : listener.tcp_fd();
  int missing = identity.world - 1 - identity.rank;
  while (missing > 0) {
    if (deadline.LeftMs() == 0) {
      std::vector<int> absent;
      for (int peer = identity.rank + 1; peer < identity.world; ++peer) {
        if (sockets[static_cast<size_t>(peer)].get() < 0) absent.push_back(peer);
      }
      return absl::DeadlineExceededError(absl::StrCat("ranks did not connect in time: ", absl::StrJoin(absent, ", ")));
    }
    pollfd entry{ear, POLLIN, 0};
    if (poll(&entry, 1, std::min(deadline.LeftMs(), kPollSliceMs)) <= 0) continue;
    UniqueFd fd(accept4(ear, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.get() < 0) continue;
    Patience hello = deadline.Left();
    hello.deadline = std::min(hello.deadline, kHelloDeadline);
    const absl::StatusOr<int> found = Authenticate(fd.get(), identity, channel, hello);
    if (!found.ok() || *found <= identity.rank || sockets[static_cast<size_t>(*found)].get() >= 0) continue;
    if (transport == MeshTransport::kTcp) SetNoDelay(fd.get());
    sockets[static_cast<size_t>(*found)] = std::move(fd);
    --missing;
  }
  return sockets;
}

absl::Status SendAll(int fd, const void* data, size_t bytes, const Patience& patience) {
  const Deadline deadline(patience);
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = send(fd, next, bytes, MSG_NOSIGNAL);
    if (sent > 0) {
      next += sent;
      bytes -= static_cast<size_t>(sent);
    } else if (errno == EAGAIN) {
      VLM_RETURN_IF_ERROR(WaitFor(fd, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return absl::UnavailableError("a peer closed its connection");
    }
  }
  return absl::OkStatus();
}

absl::Status ReceiveAll(int fd, void* data, size_t bytes, const Patience& patience) {
  const Deadline deadline(patience);
  char* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t received = recv(fd, next, bytes, 0);
    if (received > 0) {
      next += received;
      bytes -= static_cast<size_t>(received);
    } else if (received == 0 || (errno != EAGAIN && errno != EINTR)) {
      return absl::UnavailableError("a peer closed its connection");
    } else if (errno == EAGAIN) {
      VLM_RETURN_IF_ERROR(WaitFor(fd, POLLIN, deadline));
    }
  }
  return absl::OkStatus();
}

absl::Status SendDescriptor(int socket, int fd, const Patience& patience) {
  VLM_RETURN_IF_ERROR(WaitFor(socket, POLLOUT, Deadline(patience)));
  char byte = 'd';
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != 1) return SocketError("pass shared memory to a peer");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ReceiveDescriptor(int socket, const Patience& patience) {
  VLM_RETURN_IF_ERROR(WaitFor(socket, POLLIN, Deadline(patience)));
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (received != 1 || header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return absl::UnavailableError("a peer closed its connection instead of passing shared memory");
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof(int));
  return UniqueFd(fd);
}

}  // namespace vlm::train
