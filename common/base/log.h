#pragma once
// One-line logs for operators, on standard error:
//   2026-01-31T12:00:00.123456Z I fleet.cc:88] worker synced worker=g3 slots=4
//
//   ANNEAL_LOG(INFO) << "job state changed" << Field("job", id) << Field("state", "QUEUED");
//
// Values with spaces, quotes or control characters are quoted and escaped, so a hostile name cannot
// forge a line. Never log examples, prompts or credentials. Thread-safe: a line is one write(2).
// The prefix exists because torch headers define LOG.

#include <sstream>
#include <string>
#include "absl/strings/string_view.h"

namespace anneal {

enum class LogSeverity { kDebug, kInfo, kWarning, kError };

// Lines below this severity are dropped. Default kInfo. Thread-safe.
void SetMinLogSeverity(LogSeverity severity);
// A tag shown after the time in every line, e.g. "coordinator" or "trainer rank=1". Call once at
// start.
void SetLogTag(absl::string_view tag);

// ` key=value` with the value quoted when it needs to be.
struct Field {
  Field(absl::string_view key, absl::string_view value);
  Field(absl::string_view key, const char* value) : Field(key, absl::string_view(value)) {}
  Field(absl::string_view key, const std::string& value) : Field(key, absl::string_view(value)) {}
  template <typename T>
  Field(absl::string_view key, const T& value) : Field(key, absl::string_view(Str(value))) {}
  std::string text;

 private:
  template <typename T>
  static std::string Str(const T& value) {
    std::ostringstream out;
    out << value;
    return out.str();
  }
};
std::ostream& operator<<(std::ostream& out, const Field& field);

namespace internal {
class LogLine {
 public:
  LogLine(LogSeverity severity, const char* file, int line);
  ~LogLine();
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;
  std::ostream& stream() { return stream_; }

 private:
  const LogSeverity severity_;
  std::ostringstream stream_;
};
bool ShouldLog(LogSeverity severity);
struct Voidify {
  void operator&(std::ostream&) {}
};
}  // namespace internal
}  // namespace anneal

#define ANNEAL_LOG_DEBUG ::anneal::LogSeverity::kDebug
#define ANNEAL_LOG_INFO ::anneal::LogSeverity::kInfo
#define ANNEAL_LOG_WARNING ::anneal::LogSeverity::kWarning
#define ANNEAL_LOG_ERROR ::anneal::LogSeverity::kError
#define ANNEAL_LOG(severity)                            \
  !::anneal::internal::ShouldLog(ANNEAL_LOG_##severity) \
      ? (void)0                                         \
      : ::anneal::internal::Voidify() &                 \
            ::anneal::internal::LogLine(ANNEAL_LOG_##severity, __FILE__, __LINE__).stream()
