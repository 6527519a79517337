#include "worker/daemon/thread_states.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"

namespace anneal {
namespace {

constexpr size_t kMostThreads = 256;

std::vector<int64_t> ThreadsOf(const std::string& folder) {
  std::vector<int64_t> threads;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (dir == nullptr) return threads;
  while (const dirent* entry = ::readdir(dir.get())) {
    int64_t thread = 0;
    if (absl::SimpleAtoi(entry->d_name, &thread)) threads.push_back(thread);
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

// One line of a file; empty if it cannot be read.
std::string Line(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path, 4096);
  return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : "";
}

// "4711 (a (name)) S 1 ..." -> 'S'.
absl::string_view StateOf(absl::string_view stat) {
  const size_t end = stat.rfind(") ");
  return end == absl::string_view::npos ? "?" : stat.substr(end + 2, 1);
}

}  // namespace

std::string DescribeThreads(int64_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid, "/task");
  const std::vector<int64_t> threads = ThreadsOf(folder);
  std::string text = absl::StrCat("what the kernel shows of the ", threads.size(),
                                  " threads of process ", pid, ":\n");
  for (size_t i = 0; i < std::min(threads.size(), kMostThreads); ++i) {
    const std::string own = absl::StrCat(folder, "/", threads[i], "/");
    absl::StrAppend(&text, "thread ", threads[i], " ", Line(own + "comm"), ", state ",
                    StateOf(Line(own + "stat")));
    const std::string where = Line(own + "wchan"), call = Line(own + "syscall");
    if (!where.empty() && where != "0") absl::StrAppend(&text, ", in ", where);
    if (!call.empty()) absl::StrAppend(&text, ", syscall ", call);
    text += '\n';
  }
  return text;
}

absl::Status AppendToLog(const std::string& path, const std::string& text) {
  const UniqueFd log(::open(path.c_str(), O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC));
  if (!log.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  // One write, so that what others append does not come in between.
  if (::write(log.get(), text.data(), text.size()) < 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace anneal
