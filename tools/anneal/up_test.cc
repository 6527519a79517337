// `anneal up` and `anneal down` with the real coordinator and workers.

#include <sys/types.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/format/json.h"
#include "tools/anneal/testing/run_program.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class UpTest : public ::testing::Test {
 protected:
  UpTest() { fs::create_directories(folder_ / "sub"); }
  ~UpTest() override {
    Anneal({"down"});
    fs::remove_all(folder_);
  }

  Outcome Anneal(const std::vector<std::string>& arguments, const std::string& below = "") {
    return RunProgram("anneal", arguments, (folder_ / below).string());
  }
  // `anneal up` first, then the coordinator and the workers.
  std::vector<pid_t> Processes() {
    std::ifstream in(folder_ / ".anneal/processes");
    std::vector<pid_t> pids;
    for (pid_t pid = 0; in >> pid;) pids.push_back(pid);
    return pids;
  }
  // Not those of an earlier service that may still come back.
  std::vector<std::string> ReadyWorkers() {
    const Outcome listed = Anneal({"workers", "-o", "json"}, "sub");
    EXPECT_EQ(listed.code, 0) << listed.err;
    const Json response = ParseJson(listed.out).value_or(Json());
    std::vector<std::string> names;
    for (const Json& worker : response.at("workers")) {
      if (worker["state"] == "STATE_READY") names.push_back(worker["name"]);
    }
    return names;
  }

  const fs::path folder_ =
      fs::path(::testing::TempDir()) /
      absl::StrCat("up_", ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(UpTest, RunsOneServicePerFolderUntilDown) {
  const Outcome up = Anneal({"up", "--workers", "2", "--cpu-slots-per-worker", "2", "--detach"});
  ASSERT_EQ(up.code, 0) << up.err;
  EXPECT_THAT(up.out, HasSubstr("ready: 2 workers, 4 CPU slots"));
  EXPECT_THAT(ReadyWorkers(), SizeIs(2));  // found from a folder below
  EXPECT_EQ(fs::status(folder_ / ".anneal/credentials").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);

  // What the service makes is closed to other accounts, whatever umask `anneal up` was started
  // with.
  int files = 0;
  for (const char* made : {".anneal/data", ".anneal/storage"}) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder_ / made)) {
      ++files;
      EXPECT_EQ(entry.symlink_status().permissions() & fs::perms::others_all, fs::perms::none)
          << entry.path();
    }
  }
  EXPECT_GT(files, 2);

  const Outcome second = Anneal({"up"});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, HasSubstr("a service already runs in"));
  EXPECT_THAT(ReadyWorkers(), SizeIs(2));

  const std::vector<pid_t> pids = Processes();
  ASSERT_THAT(pids, SizeIs(4));
  EXPECT_EQ(Anneal({"down"}).code, 0);
  for (pid_t pid : pids) EXPECT_FALSE(fs::exists(absl::StrCat("/proc/", pid, "/exe"))) << pid;
  EXPECT_EQ(Anneal({"down"}).code, 2);
  EXPECT_EQ(Anneal({"jobs"}).code, 2);  // no service is known here any more

  ASSERT_EQ(Anneal({"up", "--detach"}).code, 0);  // what it keeps is still there
  EXPECT_THAT(ReadyWorkers(), SizeIs(1));
}

TEST_F(UpTest, SaysWhichProcessEndedAndStopsTheOthers) {
  ASSERT_EQ(Anneal({"up", "--detach"}).code, 0);
  const std::vector<pid_t> pids = Processes();
  ASSERT_THAT(pids, SizeIs(3));
  ::kill(pids[2], SIGKILL);
  Anneal({"down"});  // waits until all have gone, whoever stops them
  EXPECT_FALSE(fs::exists(absl::StrCat("/proc/", pids[1], "/exe")));
  EXPECT_THAT(ReadAll(folder_ / ".anneal/logs/up.log"), HasSubstr("w0 ended (killed by signal 9"));
}

TEST_F(UpTest, ChildrenOfAKilledUpAreFoundAndStopped) {
  ASSERT_EQ(Anneal({"up", "--detach"}).code, 0);
  const std::vector<pid_t> pids = Processes();
  ASSERT_THAT(pids, SizeIs(3));
  ::kill(pids[0], SIGKILL);
  EXPECT_THAT(Anneal({"up"}).err, HasSubstr("a service already runs in"));
  EXPECT_EQ(Anneal({"down"}).code, 0);
  for (pid_t pid : pids) EXPECT_FALSE(fs::exists(absl::StrCat("/proc/", pid, "/exe"))) << pid;
}

TEST_F(UpTest, LongFoldersWorkToo) {
  const std::string below =
      "a_folder_whose_name_is_too_long_for_unix_sockets/and_another_one_below_it_to_be_sure";
  fs::create_directories(folder_ / below);
  const Outcome up = Anneal({"up", "--detach"}, below);
  EXPECT_EQ(up.code, 0) << up.err;
  EXPECT_EQ(Anneal({"jobs"}, below).code, 0);
  EXPECT_EQ(Anneal({"down"}, below).code, 0);
}

}  // namespace
}  // namespace anneal::cli
