#include "common/protocol/child_channel.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal::protocol {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);
constexpr char kName[] = "01hf7yat00abcdefghjkmnpqrs-g3-train1";

// The other end of the channel: what the worker daemon does, one call at a time.
class Daemon {
 public:
  explicit Daemon(const std::string& socket_path) : connection_(*ConnectUnix(socket_path)) {}

  void Send(absl::string_view text) {
    connection_.Queue(text);
    EXPECT_THAT(connection_.Flush(), IsOk());
  }
  void SendBytes(const std::string& bytes) {
    EXPECT_EQ(::send(connection_.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // The next line; fails the test when the child hangs up or says nothing.
  Line Receive() {
    while (lines_.empty()) {
      if (!WaitReadable()) return {};
      const absl::Status status = connection_.Read(&lines_);
      EXPECT_THAT(status, IsOk());
      if (!status.ok()) return {};
    }
    absl::StatusOr<Line> line = ParseLine(lines_.front());
    lines_.erase(lines_.begin());
    EXPECT_THAT(line, IsOk());
    return line.ok() ? *line : Line{};
  }
  // Reads until a status satisfies `wanted`: statuses in between may or may not be sent.
  template <typename Predicate>
  Status ReceiveStatus(Predicate wanted) {
    while (!::testing::Test::HasFailure()) {
      Line line = Receive();
      if (line.status.has_value() && wanted(*line.status)) return *line.status;
    }
    return {};
  }
  // Whether the child hangs up.
  bool IsCut() {
    while (WaitReadable()) {
      if (!connection_.Read(&lines_).ok()) return true;
    }
    return false;
  }

 private:
  bool WaitReadable() {
    pollfd polled = {connection_.fd(), POLLIN, 0};
    const bool readable = ::poll(&polled, 1, 30'000) == 1;
    EXPECT_TRUE(readable) << "the child says nothing";
    return readable;
  }

  LineConnection connection_;
  std::vector<std::string> lines_;
};

class ChildChannelTest : public ::testing::Test {
 protected:
  ChildChannelTest() : run_dir_(absl::StrCat(temp_.path(), "/", kName)), socket_(run_dir_ + "/s") {
    std::filesystem::create_directory(run_dir_);
  }
  void Listen() {
    auto channel = ChildChannel::Listen(socket_);
    ASSERT_THAT(channel, IsOk());
    channel_ = *std::move(channel);
  }
  std::string Reports() { return *ReadSmallFile(run_dir_ + "/" + kReportsName); }

  const testing::TempDir temp_;
  const std::string run_dir_;
  const std::string socket_;
  std::unique_ptr<ChildChannel> channel_;
};

TEST_F(ChildChannelTest, TakesOrdersAndTellsHowItFares) {
  Listen();
  Daemon daemon(socket_);
  const Line hello = daemon.Receive();
  ASSERT_TRUE(hello.hello.has_value());
  EXPECT_EQ(hello.hello->kind, "train");
  EXPECT_EQ(hello.hello->job, "01hf7yat00abcdefghjkmnpqrs");
  EXPECT_EQ(hello.hello->generation, 3);
  EXPECT_EQ(hello.hello->rank, 1);
  EXPECT_EQ(hello.hello->pid, ::getpid());

  daemon.Send(R"({"start":{"storage_root":"/srv","task":{"job":"j","unknown":[1]}}})");
  ANNEAL_ASSERT_OK_AND_ASSIGN(Start start, channel_->WaitForStart(kLong));
  EXPECT_EQ(start.storage_root, "/srv");
  EXPECT_EQ(start.task["job"], "j");
  daemon.Send(FormatLine({.rendezvous = Rendezvous{"10.0.0.1:40000"}}));
  EXPECT_THAT(channel_->WaitForRendezvous(kLong), IsOkAndHolds(std::string("10.0.0.1:40000")));

  channel_->SetPhase("train");
  channel_->SetRankReport({.step = 4, .forward_seconds = 1.5});
  const Status status = daemon.ReceiveStatus([](const Status& s) { return s.rank.has_value(); });
  EXPECT_EQ(status.phase, "train");
  EXPECT_EQ(status.rank->forward_seconds, 1.5);
  EXPECT_EQ(channel_->stop_requested(), StopMode::kNone);
}

TEST_F(ChildChannelTest, ReportsAreLinesOfAFileAndTheDaemonLearnsTheirNumber) {
  Listen();
  Daemon daemon(socket_);
  ANNEAL_EXPECT_OK(channel_->SendReport({.step = StepReport{.step = 1, .train_loss = 0.5}}));
  ANNEAL_EXPECT_OK(channel_->SendReport({.issue = IssueReport{.message = "two\nlines"}}));
  daemon.ReceiveStatus([](const Status& s) { return s.reports == 2; });
  const std::string text = Reports();
  ASSERT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json first, ParseJson(text.substr(0, text.find('\n'))));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Report report, ReportFromJson(first));
  EXPECT_EQ(report.step->train_loss, 0.5);
}

TEST_F(ChildChannelTest, AReportThatCannotBeKeptIsRefusedAndSpoilsNothing) {
  Listen();
  EXPECT_THAT(channel_->SendReport({}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("this one 0")));
  EXPECT_THAT(
      channel_->SendReport({.issue = IssueReport{.message = std::string(kMaxReportBytes, 'x')}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the limit")));
  EXPECT_EQ(Reports(), "");

  // A file size limit stands for a full disk: the kernel writes a part of the line, then refuses.
  ANNEAL_ASSERT_OK(channel_->SendReport({.issue = IssueReport{.message = "fits"}}));
  const std::string before = Reports();
  rlimit old_limit;
  ::getrlimit(RLIMIT_FSIZE, &old_limit);
  rlimit limit = old_limit;
  limit.rlim_cur = before.size() + 10;
  ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const absl::Status status =
      channel_->SendReport({.issue = IssueReport{.message = "does not fit"}});
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("cannot append")));
  EXPECT_EQ(Reports(), before);
  ANNEAL_EXPECT_OK(channel_->SendReport({.issue = IssueReport{.message = "fits again"}}));
}

TEST_F(ChildChannelTest, ANewDaemonIsToldEverythingFromTheStart) {
  Listen();
  {
    Daemon daemon(socket_);
    daemon.Send(R"({"start":{"storage_root":"/first","task":{}}})");
    ANNEAL_ASSERT_OK(channel_->WaitForStart(kLong));
  }
  channel_->SetRendezvous("127.0.0.1:7");
  channel_->SetPhase("join");
  ANNEAL_EXPECT_OK(channel_->SendReport({.step = StepReport{}}));

  Daemon daemon(socket_);
  EXPECT_TRUE(daemon.Receive().hello.has_value());
  const Line rendezvous = daemon.Receive();
  ASSERT_TRUE(rendezvous.rendezvous.has_value());
  EXPECT_EQ(rendezvous.rendezvous->address, "127.0.0.1:7");
  EXPECT_EQ(daemon.ReceiveStatus([](const Status& s) { return s.reports == 1; }).phase, "join");
  // A repeated start changes nothing.
  daemon.Send(R"({"start":{"storage_root":"/second","task":{}}})");
  daemon.Send(R"({"stop":{"mode":"FINISH"}})");
  channel_->SetPhase("again");
  daemon.ReceiveStatus([](const Status& s) { return s.phase == "again"; });
  EXPECT_EQ(channel_->WaitForStart(kLong)->storage_root, "/first");
}

TEST_F(ChildChannelTest, TheNewestConnectionTakesThePlaceOfAnOlderOne) {
  Listen();
  Daemon hung(socket_);
  hung.Receive();
  Daemon next(socket_);
  EXPECT_TRUE(hung.IsCut());
  next.Send(FormatLine({.rendezvous = Rendezvous{"a:1"}}));
  EXPECT_THAT(channel_->WaitForRendezvous(kLong), IsOk());
}

TEST_F(ChildChannelTest, StopNowEndsWaitingAndIsNotTakenBack) {
  Listen();
  Daemon daemon(socket_);
  daemon.Send(R"({"stop":{"mode":"NOW"}})");
  EXPECT_THAT(channel_->WaitForStart(kLong), StatusIs(absl::StatusCode::kCancelled));
  daemon.Send(R"({"stop":{"mode":"FINISH"}})");
  daemon.Send(FormatLine({.rendezvous = Rendezvous{"a:1"}}));
  EXPECT_THAT(channel_->WaitForRendezvous(kLong), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(channel_->stop_requested(), StopMode::kNow);
}

TEST_F(ChildChannelTest, WaitingEndsAtItsDeadline) {
  Listen();
  EXPECT_THAT(channel_->WaitForStart(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("no start")));
}

TEST_F(ChildChannelTest, HostileLinesCutTheConnectionAndNothingElse) {
  Listen();
  for (const std::string& bytes :
       {std::string("garbage\n"), std::string("\n"), std::string("{\"start\":5}\n"),
        std::string("\xff\xfe\x00\n", 4), std::string("{\"hello\":{}}\n"),
        std::string("{\"status\":{}}\n"), std::string("{\"stop\":{\"mode\":\"later\"}}\n"),
        std::string("{\"start\":{\"task\":") + std::string(100, '[') + "\n"}) {
    Daemon daemon(socket_);
    daemon.SendBytes(bytes);
    EXPECT_TRUE(daemon.IsCut()) << bytes;
  }
  {
    Daemon half_line(socket_);
    half_line.SendBytes(R"({"stop":{"mode":"NO)");
  }
  Daemon daemon(socket_);
  // The half line of the connection before is forgotten; a line may come in pieces.
  daemon.SendBytes(R"({"start":{"storage)");
  daemon.SendBytes("_root\":\"/s\"}}\n{\"rendezvous\":{\"address\":\"a:1\"}}\n");
  EXPECT_THAT(channel_->WaitForStart(kLong), IsOk());
  EXPECT_THAT(channel_->WaitForRendezvous(kLong), IsOk());
  EXPECT_EQ(channel_->stop_requested(), StopMode::kNone);
}

TEST_F(ChildChannelTest, AnEndlessLineIsCut) {
  Listen();
  ANNEAL_ASSERT_OK_AND_ASSIGN(UniqueFd fd, ConnectUnix(socket_));
  // The child must hang up soon after the limit, not swallow for ever.
  const std::string piece(64 << 10, ' ');
  size_t sent = 0;
  for (bool cut = false; !cut && sent < 2 * kMaxLineBytes;) {
    pollfd polled = {fd.get(), POLLOUT, 0};
    ASSERT_EQ(::poll(&polled, 1, 30'000), 1);
    const ssize_t count = ::send(fd.get(), piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    cut = count < 0 && errno != EAGAIN;
    sent += std::max<ssize_t>(count, 0);
  }
  EXPECT_GT(sent, kMaxLineBytes);
  EXPECT_LT(sent, 2 * kMaxLineBytes);
  Daemon next(socket_);
  EXPECT_TRUE(next.Receive().hello.has_value());
}

TEST_F(ChildChannelTest, ARunFolderServesOneRun) {
  Listen();
  channel_.reset();
  EXPECT_THAT(ChildChannel::Listen(socket_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another run")));
  EXPECT_THAT(ChildChannel::Listen(temp_.path() + "/s"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ChildChannelTest, LastWordsAreAFile) {
  ANNEAL_ASSERT_OK(WriteExitRecord(
      run_dir_, {.status_code = 8, .reason = "OUT_OF_MEMORY", .message = "no room"}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json json, ReadJsonFile(run_dir_ + "/" + kExitName));
  ANNEAL_ASSERT_OK_AND_ASSIGN(ExitRecord record, ExitRecordFromJson(json));
  EXPECT_EQ(record.reason, "OUT_OF_MEMORY");
}

// As `key=value` pairs.
std::string Shown(const std::vector<Field>& fields) {
  std::string out;
  for (const Field& field : fields)
    absl::StrAppend(&out, out.empty() ? "" : " ", field.key, "=", field.value);
  return out;
}

TEST(RunFolderLayoutTest, TasksAreNamedByFieldsInLogs) {
  TaskKey key{.job = "01hf7yat00abcdefghjkmnpqrs", .generation = 12, .rank = 3};
  EXPECT_EQ(Shown(TaskFields(key)),
            "job=01hf7yat00abcdefghjkmnpqrs kind=train generation=12 rank=3");
  EXPECT_EQ(Shown(TaskFieldsOf("/state/runs/" + TaskName(key))), Shown(TaskFields(key)));
  key = {.job = key.job, .generation = 2, .kind = TaskKind::kPrepare};
  EXPECT_EQ(Shown(TaskFields(key)), "job=01hf7yat00abcdefghjkmnpqrs kind=prepare attempt=2");
  EXPECT_EQ(Shown(TaskFieldsOf("/state/runs/other")), "");
  EXPECT_EQ(Shown(TaskFieldsOf("")), "");
}

TEST(RunFolderLayoutTest, NamesSurviveTheRoundTrip) {
  const TaskKey key{
      .job = "01hf7yat00abcdefghjkmnpqrs", .generation = 12, .kind = TaskKind::kPrepare, .rank = 0};
  EXPECT_EQ(TaskName(key), "01hf7yat00abcdefghjkmnpqrs-g12-prepare0");
  EXPECT_THAT(ParseTaskName(TaskName(key)), IsOkAndHolds(key));
  for (const char* bad :
       {"", "x", "01hf7yat00abcdefghjkmnpqrs", "01hf7yat00abcdefghjkmnpqrs-g1-train",
        "01hf7yat00abcdefghjkmnpqrs-g1-train+1", "01hf7yat00abcdefghjkmnpqrs-g01-train1",
        "01hf7yat00abcdefghjkmnpqrs-g-1-train1", "../../../../../../etc-g1-train0",
        "01hf7yat00abcdefghjkmnpqrs-g1-7",
        "01hf7yat00abcdefghjkmnpqrs-g99999999999999999999-train0"}) {
    EXPECT_THAT(ParseTaskName(bad), StatusIs(absl::StatusCode::kInvalidArgument)) << bad;
  }
}

}  // namespace
}  // namespace anneal::protocol
