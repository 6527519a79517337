#include "common/rpc/peer_address.h"

#include "gtest/gtest.h"

namespace anneal {
namespace {

TEST(PeerAddressTest, HostsAreToldApartAndPortsAreNot) {
  EXPECT_EQ(PeerHost("ipv4:10.0.0.7:51234"), "10.0.0.7");
  EXPECT_EQ(PeerHost("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:443"), "2001:db8:1:2::/64");
  EXPECT_EQ(PeerHost("ipv6:[2001:db8:1:2::9]:443"), "2001:db8:1:2::/64");
  EXPECT_EQ(PeerHost("ipv6:%5Bfe80::1%25eth0%5D:443"), "fe80::/64");
  EXPECT_EQ(PeerHost("ipv6:%5B::ffff:10.0.0.7%5D:443"), "10.0.0.7");
  EXPECT_EQ(PeerHost("unix:/tmp/a:b"), "unix");
  EXPECT_EQ(PeerHost("unix:"), "unix");
  EXPECT_EQ(PeerHost("ipv6:nonsense:1"), "ipv6");
  EXPECT_EQ(PeerHost(""), "");
}

TEST(PeerAddressTest, OnlyAddressesAreLoopback) {
  for (const char* host :
       {"localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"})
    EXPECT_TRUE(IsLoopbackHost(host)) << host;
  for (const char* host : {"127.example.com", "127.0.0.1.example.com", "127.1", "[127.0.0.1]",
                           "10.0.0.1", "0.0.0.0", "[::]", "localhost.example.com", "", "[::1"})
    EXPECT_FALSE(IsLoopbackHost(host)) << host;
}

}  // namespace
}  // namespace anneal
