#include "common/rpc/peer_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace anneal {

std::string PeerHost(absl::string_view peer) {
  const std::string kind(peer.substr(0, peer.find(':')));
  absl::string_view rest = peer;
  rest.remove_prefix(std::min(rest.size(), kind.size() + 1));
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos) return kind;
  // gRPC writes "[" and "]" as in a URI, and a zone after "%25".
  std::string host =
      absl::StrReplaceAll(rest.substr(0, colon), {{"%5B", ""}, {"%5D", ""}, {"[", ""}, {"]", ""}});
  host.resize(std::min(host.size(), host.find('%')));
  if (kind == "ipv4") return host;
  in6_addr address = {};
  if (kind != "ipv6" || ::inet_pton(AF_INET6, host.c_str(), &address) != 1) return kind;
  char text[INET6_ADDRSTRLEN] = {};
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    ::inet_ntop(AF_INET, &address.s6_addr[12], text, sizeof(text));
    return text;
  }
  std::memset(&address.s6_addr[8], 0, 8);
  ::inet_ntop(AF_INET6, &address, text, sizeof(text));
  return absl::StrCat(text, "/64");
}

bool IsLoopbackHost(absl::string_view host) {
  if (host == "localhost") return true;
  const bool bracketed = absl::ConsumePrefix(&host, "[");
  if (bracketed && !absl::ConsumeSuffix(&host, "]")) return false;
  const std::string text(host);
  in_addr v4 = {};
  if (!bracketed && ::inet_pton(AF_INET, text.c_str(), &v4) == 1)
    return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6 = {};
  if (::inet_pton(AF_INET6, text.c_str(), &v6) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace anneal
