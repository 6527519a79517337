#include "worker/examiner/short_run.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "worker/supervisor/spawn.h"

namespace anneal {
namespace {

constexpr int kLookEveryMilliseconds = 20;
constexpr size_t kMostUnread = 1 << 20;
constexpr size_t kMostWords = 16 << 10;

}  // namespace

ShortRun::ShortRun(std::function<bool()> must_end, absl::Duration deadline, Clock& clock)
    : must_end_(std::move(must_end)), deadline_(deadline), clock_(clock) {}

absl::StatusOr<std::unique_ptr<ShortRun>> ShortRun::Start(const TrainerSlot& slot,
                                                          const std::vector<std::string>& arguments,
                                                          std::function<bool()> must_end,
                                                          absl::Duration patience, Clock& clock) {
  std::unique_ptr<ShortRun> run(
      new ShortRun(std::move(must_end), clock.MonotonicNow() + patience, clock));
  run->program_ = slot.program;
  run->command_ = absl::StrCat(slot.program, " ", arguments.empty() ? "" : arguments.front());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  run->output_ = UniqueFd(ends[0]);
  const UniqueFd child_output(ends[1]);
  run->errors_ = UniqueFd(::memfd_create("errors", MFD_CLOEXEC));
  if (!run->errors_.valid()) return absl::ErrnoToStatus(errno, "cannot make a memory file");
  SpawnOptions spawn{.program = slot.program,
                     .arguments = {slot.program},
                     .environment = slot.environment,
                     .output_fd = child_output.get(),
                     .error_fd = run->errors_.get()};
  spawn.arguments.insert(spawn.arguments.end(), arguments.begin(), arguments.end());
  ANNEAL_ASSIGN_OR_RETURN(run->pid_, Spawn(spawn));
  return run;
}

ShortRun::~ShortRun() {
  if (pid_ == 0) return;
  ::kill(-pid_, SIGKILL);  // its own group
  int ignored = 0;
  while (::waitpid(pid_, &ignored, 0) < 0 && errno == EINTR) continue;
}

absl::StatusOr<std::string> ShortRun::ReadLine() {
  while (true) {
    if (const size_t end = unread_.find('\n'); end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      return line;
    }
    if (must_end_()) return absl::AbortedError("broken off: a task needs the slot");
    if (clock_.MonotonicNow() >= deadline_)
      return absl::DeadlineExceededError(absl::StrCat(command_, " has not ended in time"));
    if (unread_.size() > kMostUnread)
      return absl::ResourceExhaustedError(absl::StrCat(command_, " says too much"));
    pollfd polled = {output_.get(), POLLIN, 0};
    if (::poll(&polled, 1, kLookEveryMilliseconds) <= 0) continue;
    char bytes[4096];
    const ssize_t count = ::read(output_.get(), bytes, sizeof(bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read from ", command_));
    if (count == 0) return absl::OutOfRangeError("the end of the output");
    unread_.append(bytes, static_cast<size_t>(count));
  }
}

absl::Status ShortRun::Reap() {
  int status = 0;
  while (true) {
    const pid_t reaped = ::waitpid(pid_, &status, WNOHANG);
    if (reaped == pid_) break;
    if (reaped < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "waitpid");
    if (must_end_()) return absl::AbortedError("broken off: a task needs the slot");
    if (clock_.MonotonicNow() >= deadline_)
      return absl::DeadlineExceededError(absl::StrCat(command_, " has not ended in time"));
    clock_.Sleep(absl::Milliseconds(1));
  }
  pid_ = 0;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  const std::string words = LastWords();
  const std::string how = WIFSIGNALED(status) ? absl::StrCat("ended by signal ", WTERMSIG(status))
                                              : absl::StrCat("exit code ", WEXITSTATUS(status));
  return absl::UnavailableError(words.empty() ? absl::StrCat(command_, ": ", how) : words);
}

// Of standard error the last line that begins with the program's name; those of libraries are
// notes, and count only where it has said nothing itself.
std::string ShortRun::LastWords() const {
  std::string words(kMostWords, '\0');
  const off_t size = ::lseek(errors_.get(), 0, SEEK_END);
  const off_t begin = std::max<off_t>(0, size - static_cast<off_t>(kMostWords));
  const ssize_t count = ::pread(errors_.get(), words.data(), words.size(), begin);
  words.resize(static_cast<size_t>(std::max<ssize_t>(0, count)));
  const absl::string_view name = absl::string_view(program_).substr(program_.rfind('/') + 1);
  absl::string_view own, last;
  for (absl::string_view line : absl::StrSplit(words, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty()) last = line;
    if (absl::StartsWith(line, name)) own = line;
  }
  return std::string(own.empty() ? last : own);
}

absl::StatusOr<std::string> ShortRun::AwaitWord(absl::string_view word) {
  while (true) {
    absl::StatusOr<std::string> line = ReadLine();
    if (absl::IsOutOfRange(line.status())) {
      ANNEAL_RETURN_IF_ERROR(Reap());
      return absl::UnavailableError(absl::StrCat(command_, " has ended without a ", word));
    }
    if (!line.ok()) return line.status();
    absl::string_view rest = *line;
    if (absl::ConsumePrefix(&rest, word) && absl::ConsumePrefix(&rest, " "))
      return std::string(rest);
  }
}

absl::StatusOr<Json> ShortRun::AwaitResult() {
  std::string result;
  while (true) {
    absl::StatusOr<std::string> line = ReadLine();
    if (absl::IsOutOfRange(line.status())) break;
    if (!line.ok()) return line.status();
    if (absl::StartsWith(*line, "{")) result = *std::move(line);
  }
  ANNEAL_RETURN_IF_ERROR(Reap());
  if (result.empty())
    return absl::UnavailableError(absl::StrCat(command_, " has ended without a result"));
  return ParseJson(result, {.max_bytes = kMostUnread, .max_depth = 4});
}

}  // namespace anneal
