#pragma once
// Blocking reads and writes on the connections of link_probe.h, each with a bound on its time.

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/format/json.h"
#include "common/host/socket_address.h"

namespace anneal::probe {

// For one read or write, and for connecting.
inline constexpr absl::Duration kPatience = absl::Seconds(3);

// Sets kPatience, and sends small messages at once.
void Prepare(int fd);
void SetReadPatience(int fd, absl::Duration patience);
// What errno says after a call that failed: DEADLINE_EXCEEDED or UNAVAILABLE.
absl::Status Failure(absl::string_view action);

absl::StatusOr<UniqueFd> Connect(const SocketAddress& from, const SocketAddress& to);
absl::Status WriteAll(int fd, absl::string_view bytes);
// Fewer bytes than asked for only at the end.
absl::StatusOr<size_t> ReadUpTo(int fd, char* bytes, size_t count);
absl::Status ReadAll(int fd, char* bytes, size_t count);

// Whether one of the two sides has closed it.
bool IsClosed(int fd);
// Whether a read would not wait.
bool HasInput(int fd);

// A JSON value of at most 64 KiB, after its length: 4 bytes, little-endian.
absl::Status WriteJson(int fd, const Json& json);
absl::StatusOr<Json> ReadJson(int fd);

}  // namespace anneal::probe
