#include "common/host/socket_address.h"

#include "common/base/status_matchers.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using testing::StatusIs;

TEST(SocketAddressTest, IsWrittenAsItIsRead) {
  for (const char* text : {"10.0.0.1:40000", "[fd00::1]:40000", "127.0.0.1:0"}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const SocketAddress address, SocketAddress::Parse(text));
    EXPECT_EQ(address.ToString(), text);
  }
}

TEST(SocketAddressTest, NamesAndNonsenseAreRefused) {
  for (const char* text : {"node7:1", "10.0.0.1", "10.0.0.1:65536", "10.0.0.1:-1", ":1", ""}) {
    EXPECT_THAT(SocketAddress::Parse(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

}  // namespace
}  // namespace anneal
