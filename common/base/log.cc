#include "common/base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/log_format.h"

namespace anneal {
namespace {

std::atomic<LogSeverity> min_severity{LogSeverity::kInfo};
std::atomic<bool> json_lines{false};

// While a line of JSON is put together, what is a finished member stands between these; neither can
// occur in one.
constexpr char kMemberBegin = '\x1f', kMemberEnd = '\x1e';

bool IsJson() { return json_lines.load(std::memory_order_relaxed); }

std::string& Tag() {
  static std::string& tag = *new std::string;  // never destroyed: threads may log during exit
  return tag;
}

std::string Quoted(absl::string_view value) {
  bool plain = !value.empty();
  for (unsigned char c : value)
    plain = plain && c > 0x20 && c != '"' && c != '\\' && c != '=' && c != 0x7f;
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

// RFC 8259, section 7. Bytes that are no ASCII pass as they are.
std::string JsonString(absl::string_view value) {
  std::string out = "\"";
  for (unsigned char c : value) {
    if (c == '"' || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c < 0x20 || c == 0x7f) {
      out += absl::StrFormat("\\u%04x", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

std::string JsonMember(absl::string_view key, absl::string_view value) {
  return absl::StrCat(JsonString(key), ":", JsonString(value));
}

std::string JsonField(absl::string_view key, absl::string_view value) {
  const bool taken =
      key == "time" || key == "severity" || key == "program" || key == "source" || key == "message";
  const std::string member = JsonMember(taken ? absl::StrCat(key, "_") : std::string(key), value);
  return absl::StrCat(std::string(1, kMemberBegin), member, std::string(1, kMemberEnd));
}

// The object of what was streamed: members between marks, the rest is the message.
std::string JsonLine(const std::string& streamed) {
  std::string members, message;
  for (absl::string_view piece : absl::StrSplit(streamed, kMemberEnd)) {
    const size_t begin = piece.find(kMemberBegin);
    message.append(std::string(piece.substr(0, begin)));
    if (begin == absl::string_view::npos) continue;
    absl::StrAppend(&members, members.empty() ? "" : ",", piece.substr(begin + 1));
  }
  return absl::StrCat("{", members, ",", JsonMember("message", message), "}");
}

}  // namespace

absl::Status SetLogFormat(absl::string_view name) {
  if (name != "text" && name != "json") {
    return absl::InvalidArgumentError(
        absl::StrCat("--log-format '", name, "' is neither text nor json"));
  }
  json_lines.store(name == "json", std::memory_order_relaxed);
  return absl::OkStatus();
}

void SetMinLogSeverity(LogSeverity severity) {
  min_severity.store(severity, std::memory_order_relaxed);
}
void SetLogTag(absl::string_view tag) { Tag() = std::string(tag); }

Field::Field(absl::string_view key, absl::string_view value)
    : text(IsJson() ? JsonField(key, value) : absl::StrCat(" ", key, "=", Quoted(value))) {}
std::ostream& operator<<(std::ostream& out, const Field& field) { return out << field.text; }

namespace internal {

bool ShouldLog(LogSeverity severity) {
  return severity >= min_severity.load(std::memory_order_relaxed);
}

LogLine::LogLine(LogSeverity severity, const char* file, int line) : severity_(severity) {
  const char* slash = std::strrchr(file, '/');
  const char* base = slash != nullptr ? slash + 1 : file;
  const std::string time =
      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  if (IsJson()) {
    constexpr const char* kNames[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
    const char* name = kNames[static_cast<int>(severity)];
    stream_ << kMemberBegin << JsonMember("time", time) << ',' << JsonMember("severity", name)
            << ',' << JsonMember("program", Tag()) << ','
            << JsonMember("source", absl::StrCat(base, ":", line)) << kMemberEnd;
    return;
  }
  stream_ << time << ' ' << "DIWE"[static_cast<int>(severity_)] << ' ';
  if (!Tag().empty()) stream_ << Tag() << ' ';
  stream_ << base << ':' << line << "] ";
}

LogLine::~LogLine() {
  const std::string text = (IsJson() ? JsonLine(stream_.str()) : stream_.str()) + "\n";
  // One write per line keeps lines whole; a failed log write has nowhere to be reported.
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace internal
}  // namespace anneal
