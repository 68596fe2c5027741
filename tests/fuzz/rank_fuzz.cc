// What ranks tell each other: headers of steps, and the handshake by which a rank knows that a connection is of its
// attempt. Strangers' bytes, also well-formed ones without the secret, neither pass nor keep an honest peer out.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/strings/match.h"
#include "base/check.h"
#include "base/file_system.h"
#include "base/random.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/temporary_folder.h"
#include "train/collectives/peer_mesh.h"
#include "train/step_header.h"

namespace vlm::fuzz {
namespace {

using train::ConnectMesh;
using train::MeshTransport;
using train::PeerAddress;
using train::PeerListener;
using train::RankHeader;
using train::StepHeader;
using train::UniqueFd;

// ---- headers of steps ----

int64_t AnyCount(FuzzInput* input) {
  constexpr int64_t kEdges[] = {-1, 0, int64_t{1} << 31, (int64_t{1} << 31) + 1, INT64_MAX, INT64_MIN};
  const uint8_t choice = input->Byte();
  return choice < 252 ? 1 + choice : kEdges[input->Below(std::size(kEdges))];
}

double AnyWeight(FuzzInput* input) {
  constexpr double kEdges[] = {0, 1e-300, 1e308, 1e308, -1, INFINITY, NAN};
  const uint8_t choice = input->Byte();
  return choice < 200 ? choice : kEdges[choice % std::size(kEdges)];
}

// Mostly what rank `rank` of `world` would tell of a step of so many micro-batches.
RankHeader AnyHeader(int rank, int world, int64_t micro_batches, FuzzInput* input) {
  RankHeader header;
  header.step = input->Byte() < 250 ? 7 : input->Number();
  header.plan_hash = input->Byte() < 250 ? "plan" : std::string(input->Text().substr(0, 70));
  if (input->Byte() > 250) micro_batches = static_cast<int64_t>(input->Below(8));
  for (int64_t m = rank; m < micro_batches; m += world) {
    train::MicroBatchHeader& micro_batch = header.micro_batches.emplace_back();
    micro_batch.global_index = input->Byte() < 250 ? m : static_cast<int64_t>(input->Number());
    for (int64_t* const value : {&micro_batch.counts.tokens, &micro_batch.counts.targets, &micro_batch.counts.documents,
                                 &micro_batch.counts.images, &micro_batch.counts.vision_tokens}) {
      *value = AnyCount(input);
    }
    micro_batch.target_weight = AnyWeight(input);
  }
  for (size_t count = input->Below(4); count > 0; --count) header.bad_pictures.push_back(input->Number());
  return header;
}

void CheckStep(const std::vector<RankHeader>& by_rank, const StepHeader& step) {
  std::array<absl::int128, 5> totals{};
  size_t micro_batches = 0, bad_pictures = 0;
  for (const RankHeader& header : by_rank) {
    VLM_CHECK(header.step == step.step, "a step that not every rank is at");
    micro_batches += header.micro_batches.size();
    bad_pictures += header.bad_pictures.size();
    for (const train::MicroBatchHeader& m : header.micro_batches) {
      const int64_t counts[] = {m.counts.tokens, m.counts.targets, m.counts.documents, m.counts.images,
                                m.counts.vision_tokens};
      for (size_t i = 0; i < totals.size(); ++i) {
        VLM_CHECK(counts[i] >= 0, "less than nothing was counted");
        totals[i] += counts[i];
      }
    }
  }
  VLM_CHECK(step.micro_batches.size() == micro_batches, "a micro-batch was lost or made up");
  const model::Counts& sums = step.totals;
  VLM_CHECK(sums.tokens == totals[0] && sums.targets == totals[1] && sums.documents == totals[2] &&
                sums.images == totals[3] && sums.vision_tokens == totals[4],
            "totals that are no sums");
  VLM_CHECK(std::isfinite(step.target_weight) && step.target_weight > 0,
            "a denominator that nothing can be divided by");
  for (size_t m = 0; m < micro_batches; ++m) {
    VLM_CHECK(step.micro_batches[m].global_index == static_cast<int64_t>(m), "micro-batches out of order");
  }
  VLM_CHECK(step.bad_pictures.size() <= bad_pictures, "a bad picture was made up");
  for (size_t i = 1; i < step.bad_pictures.size(); ++i) {
    VLM_CHECK(step.bad_pictures[i - 1] < step.bad_pictures[i], "bad pictures are not ascending");
  }
}

// What is decoded is encoded as it came; nothing else is a header.
absl::StatusOr<RankHeader> Decode(const std::string& bytes) {
  absl::StatusOr<RankHeader> header = train::DecodeRankHeader(bytes);
  if (!header.ok()) {
    VLM_CHECK(absl::IsDataLoss(header.status()), header.status().ToString());
  } else {
    VLM_CHECK(train::EncodeRankHeader(*header) == bytes, "a header changed on its way");
  }
  return header;
}

void Headers(FuzzInput* input) {
  const int world = 1 + static_cast<int>(input->Below(4));
  const auto micro_batches = static_cast<int64_t>(input->Below(8));
  std::vector<RankHeader> by_rank;
  for (int rank = 0; rank < world; ++rank) {
    std::string bytes = train::EncodeRankHeader(AnyHeader(rank, world, micro_batches, input));
    for (int changes = std::max(0, input->Byte() - 250); changes > 0; --changes) {
      bytes[(input->Byte() << 8 | input->Byte()) % bytes.size()] = static_cast<char>(input->Byte());
    }
    if (input->Byte() > 250) bytes.resize(input->Byte());
    absl::StatusOr<RankHeader> header = Decode(bytes);
    if (!header.ok()) return;
    by_rank.push_back(*std::move(header));
  }
  const absl::StatusOr<StepHeader> step = train::JoinHeaders(by_rank);
  if (step.ok()) return CheckStep(by_rank, *step);
  VLM_CHECK(absl::IsInvalidArgument(step.status()) || absl::IsFailedPrecondition(step.status()),
            step.status().ToString());
}

// ---- the handshake ----

constexpr char kSecret[] = "0123456789abcdef0123456789abcdef";
constexpr uint64_t kFence = 7;
constexpr size_t kHelloBytes = 56;
constexpr size_t kRankAt = 4;  // of a hello
constexpr absl::Duration kPatience = absl::Minutes(2);

// As train/collectives/peer_mesh.cc sends it: magic, rank, world, channel, fence, nonce.
std::string HelloBytes(int32_t rank, uint32_t channel) {
  const uint32_t magic = 0x564c4d43;
  const int32_t world = 2;
  std::string bytes;
  const auto add = [&bytes](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  add(magic);
  add(rank);
  add(world);
  add(channel);
  add(kFence);
  return bytes + std::string(32, 'n');
}

// What one who does not know the secret does with a connection.
struct Attack {
  bool mirrors = false;  // sends back what it is sent, under a rank of its own
  int32_t rank = 0;      // which
  std::string bytes;     // else what it sends
};

std::vector<Attack> AnyAttacks(int32_t rank, uint32_t channel, FuzzInput* input) {
  std::vector<Attack> attacks;
  for (size_t count = 1 + input->Below(3); count > 0; --count) {
    Attack& attack = attacks.emplace_back();
    attack.mirrors = input->Byte() % 4 == 1;
    attack.rank = rank;
    if (input->Byte() < 64) {
      attack.bytes = std::string(input->Text());
      continue;
    }
    attack.bytes = HelloBytes(rank, channel);
    for (int changes = std::max(0, input->Byte() - 200); changes > 0; changes /= 2) {
      attack.bytes[input->Below(kHelloBytes)] = static_cast<char>(input->Byte());
    }
    attack.bytes += input->Text();  // 32 bytes are a proof
    if (input->Byte() > 250) attack.bytes.resize(input->Below(kHelloBytes));
  }
  return attacks;
}

// Up to `bytes`, until the other side closes.
std::string ReadUpTo(int fd, size_t bytes) {
  std::string read;
  while (read.size() < bytes) {
    pollfd entry{fd, POLLIN, 0};
    VLM_CHECK(poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) > 0,
              "a stranger's connection was kept");
    char buffer[256];
    const ssize_t got = recv(fd, buffer, std::min(sizeof(buffer), bytes - read.size()), 0);
    if (got <= 0) break;
    read.append(buffer, static_cast<size_t>(got));
  }
  return read;
}

// `fd` is connected. Ends when the other side has closed.
void Carry(const Attack& attack, int fd) {
  const auto say = [fd](const std::string& bytes) { (void)!send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL); };
  if (attack.mirrors) {
    std::string hello = ReadUpTo(fd, kHelloBytes);
    if (hello.size() == kHelloBytes) std::memcpy(hello.data() + kRankAt, &attack.rank, sizeof(attack.rank));
    say(hello);
    say(ReadUpTo(fd, 32));
  } else {
    say(attack.bytes);
  }
  shutdown(fd, SHUT_WR);
  ReadUpTo(fd, SIZE_MAX);
}

UniqueFd ConnectTo(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  VLM_CHECK(path.size() < sizeof(name.sun_path), path);
  std::memcpy(name.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  VLM_CHECK(connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0, "connect: " + path);
  return fd;
}

// Two ranks' listeners in a folder of their own.
struct Gang {
  Gang() {
    for (const char* const rank : {"/0", "/1"}) {
      const absl::Status made = MakeDirectories(PosixFileSystem(), folder.path() + rank);
      VLM_CHECK(made.ok(), made.ToString());
      auto listener = PeerListener::Create(folder.path() + rank, "127.0.0.1");
      VLM_CHECK(listener.ok(), listener.status().ToString());
      listeners.push_back(*std::move(listener));
      peers.push_back(listeners.back()->address());
    }
  }
  absl::StatusOr<std::vector<UniqueFd>> Connect(int rank, uint32_t channel, absl::Duration patience) const {
    return ConnectMesh({rank, 2, kFence, kSecret}, *listeners[static_cast<size_t>(rank)], peers, MeshTransport::kUnix,
                       channel, {patience});
  }
  const TemporaryFolder folder;
  std::vector<std::unique_ptr<PeerListener>> listeners;
  std::vector<PeerAddress> peers;
};

// Strangers come to rank 0 before its peer does: none gets in, the peer does.
void MeetStrangers(FuzzInput* input) {
  const uint32_t channel = input->Byte() % 2;
  const std::vector<Attack> attacks = AnyAttacks(1, channel, input);
  const Gang gang;
  absl::StatusOr<std::vector<UniqueFd>> peer = absl::UnknownError("");
  std::thread others([&] {
    for (const Attack& attack : attacks) Carry(attack, ConnectTo(gang.peers[0].unix_socket).get());
    peer = gang.Connect(1, channel, kPatience);
  });
  const absl::StatusOr<std::vector<UniqueFd>> mine = gang.Connect(0, channel, kPatience);
  others.join();
  VLM_CHECK(mine.ok(), mine.status().ToString());
  VLM_CHECK(peer.ok(), peer.status().ToString());
  char byte = 0;
  VLM_CHECK(train::SendAll((*mine)[1].get(), "x", 1, {kPatience}).ok(), "not connected");
  VLM_CHECK(train::ReceiveAll((*peer)[0].get(), &byte, 1, {kPatience}).ok() && byte == 'x', "connected to another");
}

// One who does not know the secret listens in rank 0's place.
void MeetAFalseRank(FuzzInput* input) {
  const uint32_t channel = input->Byte() % 2;
  const std::vector<Attack> attacks = AnyAttacks(0, channel, input);
  const Gang gang;
  std::atomic<bool> ended = false;
  std::thread stranger([&] {
    for (size_t i = 0; !ended;) {
      pollfd entry{gang.listeners[0]->unix_fd(), POLLIN, 0};
      if (poll(&entry, 1, /*timeout=*/5) <= 0) continue;
      const UniqueFd fd(accept(entry.fd, nullptr, nullptr));
      if (fd.get() >= 0) Carry(attacks[i++ % attacks.size()], fd.get());
    }
  });
  // Who is cut off is tried again until the deadline, which is therefore short.
  const absl::Status status = gang.Connect(1, channel, absl::Milliseconds(20)).status();
  ended = true;
  stranger.join();
  VLM_CHECK(!status.ok(), "one without the secret is taken for rank 0");
  VLM_CHECK(absl::StrContains(status.message(), "rank 0"), status.ToString());
}

}  // namespace
}  // namespace vlm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  switch (input.Byte() % 8) {
    case 0:
      vlm::fuzz::MeetStrangers(&input);
      break;
    case 1:
      vlm::fuzz::MeetAFalseRank(&input);
      break;
    case 2:
      vlm::fuzz::Decode(std::string(input.Rest())).IgnoreError();
      break;
    default:
      vlm::fuzz::Headers(&input);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  // A header behind the byte that chooses the plain reader.
  vlm::train::RankHeader header{7, "plan", {{0, {9, 5, 1, 1, 4}, 2.5}}, {3}};
  seeds.push_back("\x02" + vlm::train::EncodeRankHeader(header));
  // Two micro-batches whose weights' sum is no number: 205 % 7 chooses 1e308.
  std::string weights("\x03\x00\x02\x00\x00\x00", 6);
  for (int i = 0; i < 2; ++i) weights += std::string("\x00\x09\x05\x01\x01\x04\xcd", 7);
  seeds.push_back(std::move(weights));
  // A stranger with a good hello and a wrong proof, one that mirrors; to each side.
  for (const char side : {'\x00', '\x01'}) {
    seeds.push_back(std::string(1, side) + std::string("\x00\x01\x00\xff\x00\x20", 6) + std::string(32, 'p') +
                    std::string("\x00\x01\xff\x00\x00\x00", 6));
  }
  Rng rng(RngKey{31});
  for (int i = 0; i < 32; ++i) {
    std::string seed(1, static_cast<char>(i));
    for (int byte = 0; byte < 200; ++byte) seed += static_cast<char>(rng.Below(i % 2 == 0 ? 256 : 64));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
