#pragma once
// Where a process that no longer answers stands, as far as the kernel shows it.

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace anneal {

// One line for each thread from /proc/<pid>/task (proc(5)):
//
//   thread 4711 anneal-trainer, state T, in do_signal_stop, syscall 202 0x7f5c...
//
// T: stopped by a signal or a debugger; D: waits for a disk or device. What the kernel keeps to
// itself is left out. At most a few hundred threads; the process itself is asked for nothing.
std::string DescribeThreads(int64_t pid);

// Adds `text` to the end of a log that is there. NOT_FOUND or the errno's code with the path.
absl::Status AppendToLog(const std::string& path, const std::string& text);

}  // namespace anneal
