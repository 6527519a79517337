#include "worker/keeper/liveness_listener.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::StartsWith;

UniqueFd Connect(const LivenessListener& listener) {
  int port = 0;
  EXPECT_TRUE(
      absl::SimpleAtoi(listener.address().substr(listener.address().rfind(':') + 1), &port));
  sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

// What the keeper's loop does when something is there.
void Turn(LivenessListener& listener) {
  std::vector<pollfd> polled;
  listener.AddTo(polled);
  ASSERT_GT(::poll(polled.data(), polled.size(), 10'000), 0);
  listener.Serve();
}

// What the other end said until it closed the connection.
std::string ReadAll(int fd) {
  std::string text;
  char buffer[1000];
  for (ssize_t size; (size = ::recv(fd, buffer, sizeof(buffer), 0)) > 0;) text.append(buffer, size);
  return text;
}

void Ask(int fd) {
  constexpr char kRequest[] = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
  ASSERT_GT(::send(fd, kRequest, sizeof(kRequest) - 1, MSG_NOSIGNAL), 0);
}

TEST(LivenessListenerTest, AnswersAndClosesAlsoBehindClientsThatSayNothing) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(LivenessListener listener, LivenessListener::Listen("127.0.0.1:0"));
  const UniqueFd silent = Connect(listener);
  Turn(listener);
  const UniqueFd asking = Connect(listener);
  Ask(asking.get());
  Turn(listener);
  EXPECT_THAT(ReadAll(asking.get()), StartsWith("HTTP/1.1 200 OK\r\n"));
  Ask(silent.get());
  Turn(listener);
  EXPECT_THAT(ReadAll(silent.get()), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST(LivenessListenerTest, HoldsFewConnections) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(LivenessListener listener, LivenessListener::Listen("127.0.0.1:0"));
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(Connect(listener));
    Turn(listener);
  }
  EXPECT_EQ(ReadAll(silent.front().get()), "");  // closed for a newer one
  std::vector<pollfd> polled;
  listener.AddTo(polled);
  EXPECT_EQ(polled.size(), 9u);
  Ask(silent.back().get());
  Turn(listener);
  EXPECT_THAT(ReadAll(silent.back().get()), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST(LivenessListenerTest, RefusesWhatIsNoAddressOfThisMachine) {
  EXPECT_THAT(LivenessListener::Listen("7447"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not host:port")));
  EXPECT_THAT(LivenessListener::Listen("localhost:7447"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0.0.0.0:7447")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(LivenessListener listener, LivenessListener::Listen("[::1]:0"));
  EXPECT_THAT(LivenessListener::Listen(listener.address()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("in use")));
}

}  // namespace
}  // namespace anneal
