#include "common/base/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/temp_dir.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

// What systemd has at the other end.
class Listener {
 public:
  explicit Listener(const std::string& name) : fd_(::socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address = {.sun_family = AF_UNIX};
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address),
                     offsetof(sockaddr_un, sun_path) + name.size()),
              0);
  }
  std::string Receive() {
    char buffer[100];
    const ssize_t size = ::recv(fd_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    return size < 0 ? "nothing" : std::string(buffer, size);
  }

 private:
  const UniqueFd fd_;
};

TEST(ServiceManagerTest, HearsFromUsByPathOrAbstractName) {
  const testing::TempDir temp;
  for (const std::string& name :
       {temp.path() + "/socket", absl::StrCat("@anneal-test-", ::getpid())}) {
    Listener listener(name);
    const ServiceManager manager(name);
    manager.Ready();
    EXPECT_EQ(listener.Receive(), "READY=1");
    manager.Stopping();
    EXPECT_EQ(listener.Receive(), "STOPPING=1");
  }
}

TEST(ServiceManagerTest, NobodyNeedListen) {
  ServiceManager().Ready();
  ServiceManager("/does/not/exist").Ready();
  ServiceManager(std::string(1000, 'x')).Ready();
}

TEST(ServiceManagerTest, IsTakenOutOfTheEnvironment) {
  const testing::TempDir temp;
  Listener listener(temp.path() + "/socket");
  ::setenv("NOTIFY_SOCKET", (temp.path() + "/socket").c_str(), 1);
  const ServiceManager manager = ServiceManager::TakeFromEnvironment();
  EXPECT_EQ(std::getenv("NOTIFY_SOCKET"), nullptr);
  manager.Ready();
  EXPECT_EQ(listener.Receive(), "READY=1");
}

}  // namespace
}  // namespace anneal
