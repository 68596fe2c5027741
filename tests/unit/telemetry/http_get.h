// The least of an HTTP client, for scraping in tests.
#ifndef VLM_TESTS_UNIT_TELEMETRY_HTTP_GET_H_
#define VLM_TESTS_UNIT_TELEMETRY_HTTP_GET_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace vlm::telemetry {

// The whole answer, headers included, of GET `path` at "127.0.0.1:port"; empty when nobody answers.
inline std::string HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &name.sin_addr);
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string answer;
  if (connect(connection, reinterpret_cast<sockaddr*>(&name), sizeof(name)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nConnection: close\r\n\r\n";
    if (send(connection, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t bytes; (bytes = recv(connection, buffer, sizeof(buffer), 0)) > 0;) {
        answer.append(buffer, static_cast<size_t>(bytes));
      }
    }
  }
  close(connection);
  return answer;
}

}  // namespace vlm::telemetry

#endif  // VLM_TESTS_UNIT_TELEMETRY_HTTP_GET_H_
