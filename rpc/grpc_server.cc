#include "rpc/grpc_server.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "base/clock.h"
#include "rpc/address.h"
#include "rpc/grpc_server_calls.h"
#include "rpc/grpc_threads.h"

namespace vlm::rpc {
namespace {

// How long Shutdown waits for calls that it has ended already.
constexpr absl::Duration kEndedCallsGrace = absl::Seconds(2);

// True when something accepts connections on the socket.
bool SomeoneListens(const std::string& path) {
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return false;
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
  const bool connected = connect(probe, reinterpret_cast<sockaddr*>(&name), sizeof(name)) == 0;
  close(probe);
  return connected;
}

// gRPC would silently unlink a living server's socket.
absl::Status ClearSocket(const std::string& path) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, "look at socket " + path);
  }
  if (!S_ISSOCK(info.st_mode)) return absl::AlreadyExistsError("a file that is no socket is in the way: " + path);
  if (SomeoneListens(path)) return absl::AlreadyExistsError("another process serves this socket: " + path);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, "remove dead socket " + path);
  return absl::OkStatus();
}

absl::Status CannotListen(const Address& address) {
  if (!address.socket_path.empty()) {
    return absl::InternalError("cannot listen on socket " + address.socket_path + "; does its folder exist?");
  }
  return absl::AlreadyExistsError("cannot listen on port " + std::to_string(address.port) + " (" + address.target +
                                  "): another process uses it, or it may not be bound; choose another port");
}

// grpc.health.v1.Health/Check, whose messages are two fields: HealthCheckRequest {string service = 1} and
// HealthCheckResponse {ServingStatus status = 1}, SERVING = 1.
absl::StatusOr<std::string> CheckHealth(const std::set<std::string>& services, const std::string& request) {
  std::string service;
  if (!request.empty()) {
    // One length-delimited field 1; names have fewer than 128 bytes, so the length is one byte.
    if (request.size() < 2 || request[0] != '\x0a' || static_cast<size_t>(request[1]) != request.size() - 2) {
      return absl::InvalidArgumentError("health check request does not parse");
    }
    service = request.substr(2);
  }
  if (!service.empty() && !services.contains(service)) {
    return absl::NotFoundError("service is not served here: " + service);
  }
  return std::string("\x08\x01");
}

// "vlm.v1.JobService" of "/vlm.v1.JobService/SubmitJob".
std::string ServiceOf(const std::string& method) {
  const size_t slash = method.rfind('/');
  return slash == std::string::npos || slash == 0 ? std::string() : method.substr(1, slash - 1);
}

void AddHealth(ServiceRegistry* registry) {
  std::set<std::string> services;
  for (const auto& [method, handler] : registry->unary) services.insert(ServiceOf(method));
  for (const auto& [method, handler] : registry->streams) services.insert(ServiceOf(method));
  registry->unary["/grpc.health.v1.Health/Check"] = [services = std::move(services)](
                                                        const CallContext&, std::string request, Respond respond) {
    respond(CheckHealth(services, request));
  };
}

class GenericService final : public grpc::CallbackGenericService {
 public:
  explicit GenericService(ServiceRegistry registry) : registry_(std::move(registry)) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const std::string& method = context->method();
    if (const auto unary = registry_.unary.find(method); unary != registry_.unary.end()) {
      return StartUnary(context, unary->second, &open_);
    }
    if (const auto stream = registry_.streams.find(method); stream != registry_.streams.end()) {
      return StartStream(context, stream->second, &open_);
    }
    return Refuse(absl::UnimplementedError("method is not served here: " + method));
  }

  OpenServerCalls* open() { return &open_; }

 private:
  const ServiceRegistry registry_;
  OpenServerCalls open_;
};

void SetOptions(const GrpcServerOptions& options, grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else a second server binds the port silently
  // Keepalive pings of idle workers are welcome.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes_max));
  builder->SetMaxSendMessageSize(static_cast<int>(options.message_bytes_max));
}

}  // namespace

class GrpcServer::Impl {
 public:
  explicit Impl(ServiceRegistry registry) : service_(std::move(registry)) {}

  absl::Status Listen(const GrpcServerOptions& options) {
    VLM_ASSIGN_OR_RETURN(address_, ParseAddress(options.address));
    if (!address_.socket_path.empty()) VLM_RETURN_IF_ERROR(ClearSocket(address_.socket_path));
    grpc::ServerBuilder builder;
    SetOptions(options, &builder);
    int port = 0;
    builder.AddListeningPort(address_.target, grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) return CannotListen(address_);
    if (!address_.socket_path.empty()) {
      if (chmod(address_.socket_path.c_str(), 0600) != 0) {
        return ErrnoStatus(errno, "restrict socket " + address_.socket_path);
      }
    } else {
      address_.port = port;
      address_.target = address_.target.substr(0, address_.target.rfind(':') + 1) + std::to_string(port);
    }
    return absl::OkStatus();
  }

  void Shutdown(absl::Duration grace) {
    if (server_ == nullptr) return;
    service_.open()->Drain(grace);
    server_->Shutdown(absl::ToChronoTime(RealClock()->Wall() + kEndedCallsGrace));
    server_.reset();
  }

  const Address& address() const { return address_; }

 private:
  GenericService service_;
  Address address_;
  std::unique_ptr<grpc::Server> server_;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() { impl_->Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Create(const GrpcServerOptions& options,
                                                               ServiceRegistry registry) {
  KeepGrpcThreads();
  AddHealth(&registry);
  auto impl = std::make_unique<Impl>(std::move(registry));
  if (absl::Status listening = impl->Listen(options); !listening.ok()) {
    impl->Shutdown(absl::ZeroDuration());
    return listening;
  }
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

const std::string& GrpcServer::address() const { return impl_->address().target; }

int GrpcServer::port() const { return impl_->address().port; }

void GrpcServer::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }

}  // namespace vlm::rpc
