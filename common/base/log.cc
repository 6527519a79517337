#include "common/base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstring>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace anneal {
namespace {

std::atomic<LogSeverity> min_severity{LogSeverity::kInfo};

std::string& Tag() {
  static std::string& tag = *new std::string;  // never destroyed: threads may log during exit
  return tag;
}

std::string Quoted(absl::string_view value) {
  bool plain = !value.empty();
  for (unsigned char c : value) plain = plain && c > 0x20 && c != '"' && c != '\\' && c != '=' && c != 0x7f;
  if (plain) return std::string(value);
  std::string out = "\"";
  for (unsigned char c : value) {
    if (c == '"' || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      out += absl::StrFormat("\\x%02x", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

}  // namespace

void SetMinLogSeverity(LogSeverity severity) { min_severity.store(severity, std::memory_order_relaxed); }
void SetLogTag(absl::string_view tag) { Tag() = std::string(tag); }

Field::Field(absl::string_view key, absl::string_view value) : text(" ") {
  text.append(std::string(key)).append("=").append(Quoted(value));
}
std::ostream& operator<<(std::ostream& out, const Field& field) { return out << field.text; }

namespace internal {

bool ShouldLog(LogSeverity severity) { return severity >= min_severity.load(std::memory_order_relaxed); }

LogLine::LogLine(LogSeverity severity, const char* file, int line) : severity_(severity) {
  const char* base = std::strrchr(file, '/');
  stream_ << absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()) << ' '
          << "DIWE"[static_cast<int>(severity_)] << ' ';
  if (!Tag().empty()) stream_ << Tag() << ' ';
  stream_ << (base != nullptr ? base + 1 : file) << ':' << line << "] ";
}

LogLine::~LogLine() {
  stream_ << '\n';
  const std::string text = stream_.str();
  // One write per line keeps lines whole; a failed log write has nowhere to be reported.
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace internal
}  // namespace anneal
