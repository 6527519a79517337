#pragma once
// Where the ranks of one generation find each other: a few small values that every rank can set and
// wait for.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace anneal::trainer {

// One per generation, so keys never meet those of an earlier attempt. Thread-safe.
class KeyValueStore {
 public:
  virtual ~KeyValueStore() = default;

  virtual absl::Status Set(absl::string_view key, absl::string_view value) = 0;
  // Waits until some rank has set the key. DEADLINE_EXCEEDED names it.
  virtual absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) = 0;
};

}  // namespace anneal::trainer
