#include "common/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/log_format.h"
#include "common/base/status.h"
#include "common/base/utf8.h"

namespace anneal {
namespace {

constexpr char kFormatVariable[] = "ANNEAL_LOG_FORMAT";
constexpr char kLevelVariable[] = "ANNEAL_LOG_LEVEL";
constexpr const char* kLevels[] = {"debug", "info", "warning", "error"};

std::atomic<LogSeverity> min_severity{LogSeverity::kInfo};
std::atomic<bool> json_lines{false};

// What all lines say. Earlier ones are kept, since a thread may be reading them; there are few.
// Without a lock, so that a process that was just forked may log.
struct Context {
  std::string program;
  std::vector<Field> fields;
  const Context* previous;
};
std::atomic<const Context*> context{nullptr};

// The inside of a quoted string, by the rules that JSON (RFC 8259, section 7) and the readers of
// logfmt share. Bytes that are no UTF-8 become U+FFFD.
void AppendEscaped(absl::string_view value, std::string* out) {
  while (!value.empty()) {
    const auto c = static_cast<unsigned char>(value[0]);
    const size_t n = Utf8SequenceBytes(value);
    if (n == 0) {
      absl::StrAppend(out, "\xEF\xBF\xBD");
    } else if (c == '"' || c == '\\') {
      absl::StrAppend(out, "\\", value.substr(0, 1));
    } else if (c == '\n') {
      absl::StrAppend(out, "\\n");
    } else if (c < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(out, "\\u%04x", c);
    } else {
      absl::StrAppend(out, value.substr(0, n));
    }
    value.remove_prefix(std::max<size_t>(n, 1));
  }
}

// Whether a value of logfmt needs no quotes.
bool IsPlain(absl::string_view value) {
  if (value.empty()) return false;
  for (absl::string_view rest = value; !rest.empty();) {
    const auto c = static_cast<unsigned char>(rest[0]);
    const size_t n = Utf8SequenceBytes(rest);
    if (n == 0 || c <= 0x20 || c == '"' || c == '\\' || c == '=' || c == 0x7f) return false;
    rest.remove_prefix(n);
  }
  return true;
}

// Puts the members of a line together.
class Line {
 public:
  explicit Line(bool json) : json_(json) { text_ = json ? "{" : ""; }

  void Add(std::string key, absl::string_view value) {
    while (std::find(keys_.begin(), keys_.end(), key) != keys_.end()) key += '_';
    if (!keys_.empty()) text_ += json_ ? ',' : ' ';
    const bool quoted = json_ || !IsPlain(value);
    absl::StrAppend(&text_, json_ ? "\"" : "", key, json_ ? "\":" : "=", quoted ? "\"" : "");
    AppendEscaped(value, &text_);
    if (quoted) text_ += '"';
    keys_.push_back(std::move(key));
  }
  std::string End() && { return std::move(text_) + (json_ ? "}\n" : "\n"); }

 private:
  const bool json_;
  std::vector<std::string> keys_;
  std::string text_;
};

std::optional<LogSeverity> SeverityOf(absl::string_view level) {
  for (size_t i = 0; i < std::size(kLevels); ++i) {
    if (level == kLevels[i]) return static_cast<LogSeverity>(i);
  }
  return std::nullopt;
}

absl::Status Apply(const LogOptions& options, absl::string_view format_name,
                   absl::string_view level_name) {
  if (options.format != "text" && options.format != "json") {
    return absl::InvalidArgumentError(
        absl::StrCat(format_name, " '", options.format, "' is neither text nor json"));
  }
  const std::optional<LogSeverity> severity = SeverityOf(options.level);
  if (!severity.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(level_name, " '", options.level,
                                                   "' is none of debug, info, warning and error"));
  }
  json_lines.store(options.format == "json", std::memory_order_relaxed);
  SetMinLogSeverity(*severity);
  return absl::OkStatus();
}

}  // namespace

absl::Status SetUpLogs(const LogOptions& options) {
  return Apply(options, "--log-format", "--log-level");
}

std::map<std::string, std::string> LogEnvironment(const LogOptions& options) {
  return {{kFormatVariable, options.format}, {kLevelVariable, options.level}};
}

absl::Status SetUpLogsFromEnvironment() {
  LogOptions options;
  if (const char* format = std::getenv(kFormatVariable)) options.format = format;
  if (const char* level = std::getenv(kLevelVariable)) options.level = level;
  return Apply(options, kFormatVariable, kLevelVariable);
}

void SetMinLogSeverity(LogSeverity severity) {
  min_severity.store(severity, std::memory_order_relaxed);
}

void SetLogContext(absl::string_view program, std::vector<Field> fields) {
  auto* next = new Context{std::string(program), std::move(fields), context.load()};
  while (!context.compare_exchange_weak(next->previous, next)) {
  }
}

namespace internal {

bool ShouldLog(LogSeverity severity) {
  return severity >= min_severity.load(std::memory_order_relaxed);
}

LogLine::~LogLine() {
  const char* slash = std::strrchr(file_, '/');
  const Context* process = context.load(std::memory_order_acquire);
  Line line(json_lines.load(std::memory_order_relaxed));
  line.Add("time", absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()));
  line.Add("level", kLevels[static_cast<int>(severity_)]);
  if (process != nullptr && !process->program.empty()) line.Add("program", process->program);
  line.Add("source", absl::StrCat(slash != nullptr ? slash + 1 : file_, ":", line_));
  line.Add("msg", message_.str());
  if (process != nullptr) {
    for (const Field& field : process->fields) line.Add(field.key, field.value);
  }
  for (const Field& field : fields_) line.Add(field.key, field.value);
  const std::string text = std::move(line).End();
  // One write per line keeps lines whole; a failed log write has nowhere to be reported.
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace internal
}  // namespace anneal
