#pragma once
// Pages of List calls: 50 entries by default, 1000 at most, newest first. A token is the id of the
// last entry shown with a hash of the filter, so that it cannot be used with another filter and
// needs no memory in the server.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

struct PageRequest {
  int size = 0;
  // Show entries that come after this id in the order of the list. Empty = from the start.
  std::string after_id;
};

// `filter` is every request field that chooses entries (project included), joined by the caller.
// INVALID_ARGUMENT for a negative size, and for a token that was not made by MakePageToken for the
// same filter.
absl::StatusOr<PageRequest> ParsePageRequest(int32_t page_size, absl::string_view page_token,
                                             absl::string_view filter);
std::string MakePageToken(absl::string_view last_id, absl::string_view filter);

}  // namespace anneal
