#pragma once
// One-line logs for operators, on standard error, as logfmt or as JSON (log_format.h). The page for
// them is docs/operations/logs.md.
//
//   ANNEAL_LOG(INFO) << "job state changed" << Field("job", id) << Field("to", "QUEUED");
//
//   time=2026-01-31T12:00:00.123456Z level=info program=coordinator source=control_loop.cc:225
//     msg="job state changed" job=01hf7yat00abcdefghjkmnpqrs to=QUEUED               (one line)
//
// What is streamed is the message, wherever it stands; fields follow it. Values are quoted, escaped
// and valid UTF-8, so a hostile name can neither forge a line nor break a reader. Never log
// examples, prompts or credentials. Thread-safe: a line is one write(2). The prefix exists because
// torch headers define LOG.

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace anneal {

enum class LogSeverity { kDebug, kInfo, kWarning, kError };

// Lines below this severity are dropped. Default kInfo. Thread-safe.
void SetMinLogSeverity(LogSeverity severity);

// `key=value`. The key is [a-z0-9_]+.
struct Field {
  Field(absl::string_view k, absl::string_view v) : key(k), value(v) {}
  Field(absl::string_view k, const char* v) : key(k), value(v) {}
  Field(absl::string_view k, std::string v) : key(k), value(std::move(v)) {}
  template <typename T>
  Field(absl::string_view k, const T& v) : key(k), value(Str(v)) {}
  std::string key, value;

 private:
  template <typename T>
  static std::string Str(const T& value) {
    std::ostringstream out;
    out << value;
    return out.str();
  }
};

// What every line from now on says of its process: the program's name (empty = none), and fields
// such as the job that it works for. Thread-safe; meant for a few calls in a process's life.
void SetLogContext(absl::string_view program, std::vector<Field> fields = {});

namespace internal {
// Collects one line and writes it at its end.
class LogLine {
 public:
  LogLine(LogSeverity severity, const char* file, int line)
      : severity_(severity), file_(file), line_(line) {}
  ~LogLine();
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  LogLine& self() { return *this; }
  template <typename T>
  LogLine& operator<<(const T& part) {
    message_ << part;
    return *this;
  }
  LogLine& operator<<(const Field& field) {
    fields_.push_back(field);
    return *this;
  }
  LogLine& operator<<(const std::vector<Field>& fields) {
    fields_.insert(fields_.end(), fields.begin(), fields.end());
    return *this;
  }

 private:
  const LogSeverity severity_;
  const char* const file_;
  const int line_;
  std::ostringstream message_;
  std::vector<Field> fields_;
};
bool ShouldLog(LogSeverity severity);
struct Voidify {
  void operator&(LogLine&) {}
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
            ::anneal::internal::LogLine(ANNEAL_LOG_##severity, __FILE__, __LINE__).self()
