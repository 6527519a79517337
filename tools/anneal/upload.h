#pragma once
// Sending files, once: a file that the service already has is not sent again, and a broken upload
// goes on where it stopped.

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "tools/anneal/client.h"

namespace anneal::cli {

// `progress` gets a bar while bytes are sent, if `terminal_width` is not 0. NOT_FOUND if there is
// no such file; ABORTED if it changed meanwhile.
absl::StatusOr<v1::File> UploadOnce(Client& client, const std::string& path, std::ostream& progress,
                                    int terminal_width, Clock& clock, Random& random);

}  // namespace anneal::cli
