#pragma once
// How log lines look and which are written, as flags say it.

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace anneal {

// How logs are written; the flags --log-format and --log-level of every program that has them.
struct LogOptions {
  // "text" (logfmt: key=value, separated by spaces) or "json" (one object a line, each value a
  // string). Both have time, level, program, source, msg and the fields of the line; a field whose
  // name is taken gets a "_" behind it.
  std::string format = "text";
  // "debug", "info", "warning" or "error": lines of less weight are not written.
  std::string level = "info";
};

// For all lines from now on; call it before threads log. INVALID_ARGUMENT names the flag.
absl::Status SetUpLogs(const LogOptions& options);

// How a worker hands its options to the programs it starts: as environment variables, so that they
// hold from the first line on, before any argument is read.
std::map<std::string, std::string> LogEnvironment(const LogOptions& options);
// As SetUpLogs, from those variables; what is not set stays as it is. INVALID_ARGUMENT names the
// variable.
absl::Status SetUpLogsFromEnvironment();

}  // namespace anneal
