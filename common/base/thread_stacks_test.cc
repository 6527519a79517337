#include "common/base/thread_stacks.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/temp_dir.h"
#include "common/base/thread.h"
#include "gmock/gmock.h"

namespace anneal {

// Not in the unnamed namespace, and never inlined: its name is looked for. The read comes back
// when the test closes the other end.
[[gnu::noinline]] ssize_t HangOnPipe(int fd, absl::Notification& hangs) {
  char byte = 0;
  hangs.Notify();
  ssize_t count = 0;
  do {
    count = ::read(fd, &byte, 1);
  } while (count < 0 && errno == EINTR);
  // More than a tail call, which would leave no frame.
  return count + byte;
}

namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ThreadStacksTest : public ::testing::Test {
 protected:
  void SetUp() override {
// What the tsan preset defines; it undefines __SANITIZE_THREAD__ for the sake of the libraries.
#ifdef _GLIBCXX_TSAN
    GTEST_SKIP() << "ThreadSanitizer lets a signal wait until its thread does something";
#endif
    PrepareThreadStacks();
    ASSERT_EQ(::pipe2(pipe_, O_CLOEXEC), 0);
  }
  std::string Write() {
    const std::string path = absl::StrCat(folder_.path(), "/log");
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    WriteThreadStacks(fd.get());
    return ReadSmallFile(path).value_or("");
  }
  // What is written once `thread` sleeps; it may still be on its way from hangs_ to its read.
  std::string WriteOnceAsleep(absl::string_view thread) {
    const std::string asleep = absl::StrCat(" ", thread, ", state S:\n");
    std::string text = Write();
    const absl::Time until = absl::Now() + absl::Seconds(60);
    while (!absl::StrContains(text, asleep) && absl::Now() < until) text = Write();
    EXPECT_THAT(text, HasSubstr(asleep));
    return text;
  }
  // Lets the hanging threads go.
  void ClosePipe() {
    ::close(pipe_[1]);
    pipe_[1] = -1;
  }
  void TearDown() override {
    if (pipe_[1] >= 0) ::close(pipe_[1]);
    if (pipe_[0] >= 0) ::close(pipe_[0]);
  }

  testing::TempDir folder_;
  int pipe_[2] = {-1, -1};
  absl::Notification hangs_;
};

TEST_F(ThreadStacksTest, ShowWhereAThreadHangs) {
  Thread thread("hanging", [this] { HangOnPipe(pipe_[0], hangs_); });
  hangs_.WaitForNotification();
  for (int i = 0; i < 3; ++i) {
    const std::string text = WriteOnceAsleep("hanging");
    EXPECT_THAT(text, HasSubstr("anneal::HangOnPipe()"));
    EXPECT_THAT(text, HasSubstr("(thread_stacks_test+0x"));
    EXPECT_THAT(text, HasSubstr("\nend of stacks\n"));
  }
  ClosePipe();
}

TEST_F(ThreadStacksTest, AThreadThatDoesNotAnswerIsNamed) {
  Thread deaf("deaf", [this] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    HangOnPipe(pipe_[0], hangs_);
  });
  hangs_.WaitForNotification();
  const std::string text = WriteOnceAsleep("deaf");
  EXPECT_THAT(text, HasSubstr(" deaf, state S:\n  does not answer\n"));
  EXPECT_THAT(text, Not(HasSubstr("HangOnPipe")));
  ClosePipe();
}

TEST_F(ThreadStacksTest, TheFirstThreadComesLast) {
  std::string text;
  {
    Thread thread("hanging", [this] { HangOnPipe(pipe_[0], hangs_); });
    hangs_.WaitForNotification();
    Thread writer("writer", [&] { text = Write(); });
    writer.Join();
    ClosePipe();
  }
  const size_t first = text.find(absl::StrCat("thread ", ::getpid(), " "));
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_GT(first, text.find(" hanging, "));
  EXPECT_THAT(text, Not(HasSubstr(" writer, "))) << "the caller knows where it is";
}

}  // namespace
}  // namespace anneal
