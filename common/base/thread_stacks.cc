#include "common/base/thread_stacks.h"

#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "absl/base/const_init.h"
#include "absl/debugging/symbolize.h"
#include "absl/synchronization/mutex.h"

namespace anneal {
namespace {

constexpr int kSignal = SIGUSR2;
constexpr int kMostFrames = 64;
constexpr size_t kMostThreads = 256;
// The handler and the kernel's return from it lie above what was interrupted.
constexpr int kFramesOfHandler = 2;
constexpr timespec kPatience = {.tv_sec = 0, .tv_nsec = 200'000'000};
// Threads without an answer cost their patience; after so many nobody else is waited for.
constexpr int kMostSilent = 20;

// What the asking thread and a handler share. A handler answers only if it can take the question,
// so one that comes late disturbs nobody.
struct Question {
  std::atomic<pid_t> thread{0};  // that is asked; 0 once taken or withdrawn
  void* frames[kMostFrames];
  int depth = 0;
  sem_t answered;
  // A handler has taken it and never answered: it may still write, so nobody else can be asked.
  bool lost = false;
};
Question question;

void Answer(int) {
  const int saved_errno = errno;
  pid_t self = static_cast<pid_t>(::syscall(SYS_gettid));
  if (question.thread.compare_exchange_strong(self, 0)) {
    question.depth = ::backtrace(question.frames, kMostFrames);
    ::sem_post(&question.answered);
  }
  errno = saved_errno;
}

bool AwaitAnswer() {
  timespec deadline = {};
  ::clock_gettime(CLOCK_MONOTONIC, &deadline);
  deadline.tv_nsec += kPatience.tv_nsec;
  deadline.tv_sec += deadline.tv_nsec / 1'000'000'000;
  deadline.tv_nsec %= 1'000'000'000;
  int result = 0;
  do {
    result = ::sem_clockwait(&question.answered, CLOCK_MONOTONIC, &deadline);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

// Whether `question` holds the thread's stack now.
bool Ask(pid_t thread) {
  question.thread = thread;
  if (::syscall(SYS_tgkill, ::getpid(), thread, kSignal) == 0 && AwaitAnswer()) return true;
  pid_t asked = thread;
  if (question.thread.compare_exchange_strong(asked, 0)) return false;
  question.lost = !AwaitAnswer();  // it has just begun
  return !question.lost;
}

// One line of /proc/self/task/<thread>/<name>, without its end; empty if there is none.
template <size_t kSize>
void ReadTaskFile(pid_t thread, const char* name, char (&text)[kSize]) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/task/%d/%s", thread, name);
  text[0] = '\0';
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return;
  if (std::fgets(text, kSize, file) == nullptr) text[0] = '\0';
  std::fclose(file);
  text[std::strcspn(text, "\n")] = '\0';
}

void WriteHead(int fd, pid_t thread) {
  char name[64], stat[256];
  ReadTaskFile(thread, "comm", name);
  ReadTaskFile(thread, "stat", stat);
  // "4711 (name) S ...": the name may hold anything, also parentheses.
  const char* end_of_name = std::strrchr(stat, ')');
  const char state = end_of_name != nullptr && std::strlen(end_of_name) > 2 ? end_of_name[2] : '?';
  ::dprintf(fd, "thread %d %s, state %c:\n", thread, name, state);
}

// "function (library+0x12ab)": with the offset, addr2line finds the line in a build that has it.
void WriteFrame(int fd, void* address, bool is_return_address) {
  char* const pc = static_cast<char*>(address) - (is_return_address ? 1 : 0);
  char function[512];
  if (!absl::Symbolize(pc, function, sizeof(function))) std::strcpy(function, "?");
  // Not dladdr, which takes the loader's lock.
  dl_find_object object = {};
  if (::_dl_find_object(pc, &object) != 0) {
    ::dprintf(fd, "  %s (%p)\n", function, static_cast<void*>(pc));
    return;
  }
  const char* path = object.dlfo_link_map->l_name;
  if (path == nullptr || path[0] == '\0') path = program_invocation_name;
  const char* slash = std::strrchr(path, '/');
  ::dprintf(fd, "  %s (%s+0x%jx)\n", function, slash == nullptr ? path : slash + 1,
            static_cast<uintmax_t>(reinterpret_cast<uintptr_t>(pc) - object.dlfo_link_map->l_addr));
}

std::vector<pid_t> OtherThreads() {
  std::vector<pid_t> threads;
  DIR* folder = ::opendir("/proc/self/task");
  if (folder == nullptr) return threads;
  const pid_t self = static_cast<pid_t>(::syscall(SYS_gettid));
  while (const dirent* entry = ::readdir(folder)) {
    const pid_t thread = std::atoi(entry->d_name);
    if (thread > 0 && thread != self) threads.push_back(thread);
  }
  ::closedir(folder);
  // The log's end is what people see first, and the first thread is the one that does the work.
  std::stable_partition(threads.begin(), threads.end(),
                        [](pid_t thread) { return thread != ::getpid(); });
  return threads;
}

}  // namespace

void PrepareThreadStacks() {
  absl::InitializeSymbolizer(program_invocation_name);
  // The first call loads libgcc, and a handler must not.
  void* frame = nullptr;
  ::backtrace(&frame, 1);
  ::sem_init(&question.answered, /*pshared=*/0, 0);
  struct sigaction action = {};
  action.sa_handler = Answer;
  action.sa_flags = SA_RESTART;
  ::sigfillset(&action.sa_mask);
  ::sigaction(kSignal, &action, nullptr);
}

void WriteThreadStacks(int fd) {
  static absl::Mutex one_at_a_time(absl::kConstInit);
  absl::MutexLock lock(&one_at_a_time);
  const std::vector<pid_t> threads = OtherThreads();
  const size_t left_out = threads.size() - std::min(threads.size(), kMostThreads);
  ::dprintf(fd, "stacks of %zu threads:\n", threads.size() - left_out);
  int silent = 0;
  // The last ones, so that the first thread is among them.
  for (auto thread = threads.begin() + left_out; thread != threads.end(); ++thread) {
    WriteHead(fd, *thread);
    const bool can_ask = !question.lost && silent < kMostSilent;
    if (!can_ask || !Ask(*thread)) {
      ++silent;
      ::dprintf(fd, "  does not answer\n");
      continue;
    }
    for (int i = kFramesOfHandler; i < question.depth; ++i)
      WriteFrame(fd, question.frames[i], i > kFramesOfHandler);
  }
  ::dprintf(fd, "%s\n", kEndOfThreadStacks);
}

}  // namespace anneal
