#pragma once
// Where calls come from.

#include <string>

#include "absl/strings/string_view.h"

namespace anneal {

// Whom a call's peer (grpc::ServerContextBase::peer, "ipv4:10.0.0.7:51234") is counted with: an
// IPv4 address, the first 64 bits of an IPv6 address, of which one host has all, "2001:db8::/64";
// for anything else, Unix sockets above all, the kind of address alone, "unix".
std::string PeerHost(absl::string_view peer);

// Whether only this machine reaches `host`: "localhost", or an address of 127.0.0.0/8 or ::1, the
// latter also in brackets. Other names are not looked up: they are taken for remote.
bool IsLoopbackHost(absl::string_view host);

}  // namespace anneal
