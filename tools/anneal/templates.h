#pragma once
// What `anneal init` writes.

namespace anneal::cli {

// A job file with every field that people commonly set, the optional ones commented out with their
// defaults.
extern const char kSampleJob[];
// A few chat rows that a person can read at a glance.
extern const char kSampleData[];

}  // namespace anneal::cli
