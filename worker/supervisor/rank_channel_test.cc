#include "worker/supervisor/rank_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using protocol::ChildChannel;
using protocol::StopMode;

constexpr absl::Duration kPatience = absl::Seconds(30);
const protocol::TaskKey kKey{.job = "01hf7yat00abcdefghjkmnpqrs", .generation = 2, .rank = 1};

class RankChannelTest : public ::testing::Test {
 protected:
  RankChannelTest() { std::filesystem::create_directory(run_dir_); }

  std::unique_ptr<ChildChannel> Listen() {
    absl::StatusOr<std::unique_ptr<ChildChannel>> child = ChildChannel::Listen(socket_);
    EXPECT_THAT(child, ::anneal::testing::IsOk());
    return *std::move(child);
  }
  // Serves the channel, as the daemon's loop does, until the condition holds. Simulated time moves
  // past the pause between two attempts to connect.
  template <typename Condition>
  bool ServeUntil(Condition condition) {
    const absl::Duration end = Clock::Real().MonotonicNow() + kPatience;
    while (Clock::Real().MonotonicNow() < end) {
      clock_.AdvanceTime(absl::Milliseconds(50));
      channel_.Serve();
      if (condition()) return true;
      pollfd polled = {channel_.fd(), POLLIN, 0};
      ::poll(&polled, 1, 10);
    }
    return false;
  }

  const testing::TempDir temp_;
  const std::string run_dir_ = absl::StrCat(temp_.path(), "/", TaskName(kKey));
  const std::string socket_ = run_dir_ + "/s";
  SimulatedClock clock_;
  RankChannel channel_{socket_, kKey, {.storage_root = "/srv", .task = {{"rank", 1}}}, clock_};
};

TEST_F(RankChannelTest, WaitsForTheSocketThenHandsOverTheTask) {
  EXPECT_FALSE(channel_.Serve());
  EXPECT_EQ(channel_.fd(), -1);
  std::unique_ptr<ChildChannel> child = Listen();
  EXPECT_FALSE(channel_.Serve());  // not at once again
  EXPECT_EQ(channel_.fd(), -1);
  EXPECT_TRUE(ServeUntil([&] { return channel_.greeted(); }));
  ANNEAL_ASSERT_OK_AND_ASSIGN(protocol::Start start, child->WaitForStart(kPatience));
  EXPECT_EQ(start.storage_root, "/srv");
  EXPECT_EQ(start.task["rank"], 1);
}

TEST_F(RankChannelTest, CarriesStateBothWays) {
  std::unique_ptr<ChildChannel> child = Listen();
  child->SetPhase("load");
  child->SetRendezvous("127.0.0.1:1");
  EXPECT_TRUE(ServeUntil(
      [&] { return channel_.status().phase == "load" && channel_.rendezvous() == "127.0.0.1:1"; }));
  channel_.SetRendezvous("127.0.0.1:2");
  channel_.SetStop(StopMode::kPause);
  EXPECT_TRUE(ServeUntil([&] { return child->stop_requested() == StopMode::kPause; }));
  channel_.SetStop(StopMode::kFinish);
  EXPECT_TRUE(ServeUntil([&] { return child->stop_requested() == StopMode::kFinish; }));
  EXPECT_THAT(child->WaitForRendezvous(kPatience), IsOkAndHolds(std::string("127.0.0.1:2")));
  channel_.SetStop(StopMode::kNow);
  channel_.SetStop(StopMode::kFinish);  // does not weaken the order
  EXPECT_TRUE(ServeUntil([&] { return child->stop_requested() == StopMode::kNow; }));
}

TEST_F(RankChannelTest, SaysAllAgainAfterAReconnection) {
  std::unique_ptr<ChildChannel> child = Listen();
  EXPECT_TRUE(ServeUntil([&] { return channel_.greeted(); }));
  channel_.SetRendezvous("127.0.0.1:2");
  child.reset();
  EXPECT_TRUE(ServeUntil([&] { return !channel_.greeted(); }));
  std::filesystem::remove(run_dir_ + "/" + protocol::kReportsName);
  child = Listen();
  EXPECT_TRUE(ServeUntil([&] { return channel_.greeted(); }));
  EXPECT_THAT(child->WaitForRendezvous(kPatience), IsOkAndHolds(std::string("127.0.0.1:2")));
}

TEST_F(RankChannelTest, AStrangerGetsNoTask) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(UniqueFd listener, protocol::ListenUnix(socket_));
  const std::string hello =
      R"({"hello":{"version":1,"kind":"train","job":"01hf7yat00abcdefghjkmnpqrs",)";
  for (const std::string& first_line :
       {std::string("garbage"), std::string(R"({"status":{"phase":"train"}})"),
        std::string(R"({"start":{}})"), hello + R"("generation":1,"rank":1}})",
        hello + R"("generation":2,"rank":0}})",
        std::string(R"({"hello":{"version":99,"kind":"train"}})")}) {
    ASSERT_TRUE(ServeUntil([&] { return channel_.fd() >= 0; }));
    UniqueFd peer(::accept(listener.get(), nullptr, nullptr));
    const std::string text = first_line + "\n";
    ASSERT_EQ(::send(peer.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    ASSERT_TRUE(ServeUntil([&] { return channel_.fd() < 0; })) << first_line;
    EXPECT_FALSE(channel_.greeted());
    char byte;
    // 0 at its end, or a reset: in no case a task.
    EXPECT_LE(::recv(peer.get(), &byte, 1, 0), 0) << first_line;
  }
  EXPECT_EQ(channel_.status().phase, "");
}

}  // namespace
}  // namespace anneal
