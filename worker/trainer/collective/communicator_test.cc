// Every communicator against the contract in communicator.h: Gloo between real sockets, the one of
// threads, the one of one.

#include "worker/trainer/collective/communicator.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include "absl/synchronization/notification.h"
#include "common/base/reasons.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/thread.h"
#include "worker/trainer/collective/gloo_communicator.h"
#include "worker/trainer/collective/solo_communicator.h"
#include "worker/trainer/collective/tcp_store.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::anneal::trainer::testing::RunOnRanks;
using ::testing::HasSubstr;

using Body = std::function<absl::Status(Communicator&)>;

// Runs `body` on `world_size` Gloo ranks: threads here, but sockets between them.
absl::Status RunOnGloo(int world_size, const Body& body,
                       absl::Duration timeout = absl::Seconds(20)) {
  ANNEAL_ASSIGN_OR_RETURN(const auto server, TcpStore::Serve("127.0.0.1"));
  std::vector<absl::Status> results(world_size);
  {
    std::vector<Thread> threads;
    for (int rank = 0; rank < world_size; ++rank) {
      threads.emplace_back("gloo-rank", [&, rank] {
        results[rank] = [&]() -> absl::Status {
          ANNEAL_ASSIGN_OR_RETURN(const auto store, TcpStore::Connect(server->address(), timeout));
          ANNEAL_ASSIGN_OR_RETURN(const auto communicator,
                                  ConnectGloo({rank, world_size, "127.0.0.1", timeout}, *store));
          return body(*communicator);
        }();
      });
    }
  }
  for (const absl::Status& result : results) ANNEAL_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

// What every rank expects of every collective. Rank r brings the numbers from 100 r on.
absl::Status KeepsItsContract(Communicator& communicator) {
  const int rank = communicator.rank(), world_size = communicator.world_size();
  const int64_t part = 3;
  const auto numbers_of = [&](int r) {
    return at::arange(100 * r, 100 * r + part * world_size, at::kFloat);
  };

  at::Tensor out = at::empty({part * world_size});
  ANNEAL_RETURN_IF_ERROR(communicator.AllToAll(numbers_of(rank), out, "all to all"));
  for (int r = 0; r < world_size; ++r) {
    EXPECT_TRUE(
        at::equal(out.narrow(0, part * r, part), numbers_of(r).narrow(0, part * rank, part)));
  }

  const at::Tensor mine = at::full({2, 2}, rank, at::kDouble);
  at::Tensor gathered = at::empty({4 * world_size}, at::kDouble);
  ANNEAL_RETURN_IF_ERROR(communicator.AllGather(mine, gathered, "all gather"));
  for (int r = 0; r < world_size; ++r) {
    EXPECT_TRUE(at::equal(gathered.narrow(0, 4 * r, 4), at::full({4}, r, at::kDouble)));
  }

  const float ranks_sum = world_size * (world_size - 1) / 2.0f;
  at::Tensor sum = at::full({5}, rank, at::kFloat);
  ANNEAL_RETURN_IF_ERROR(communicator.AllReduceSum(sum, "all reduce"));
  EXPECT_TRUE(at::equal(sum, at::full({5}, ranks_sum, at::kFloat)));

  at::Tensor scattered = at::empty({part});
  ANNEAL_RETURN_IF_ERROR(
      communicator.ReduceScatterSum(numbers_of(rank), scattered, "reduce scatter"));
  const at::Tensor part_of_first = numbers_of(0).narrow(0, part * rank, part);
  EXPECT_TRUE(at::equal(scattered, part_of_first.mul(world_size).add(100 * ranks_sum)));

  at::Tensor told = at::full({2}, rank, at::kLong);
  ANNEAL_RETURN_IF_ERROR(communicator.Broadcast(told, world_size - 1, "broadcast"));
  EXPECT_TRUE(at::equal(told, at::full({2}, world_size - 1, at::kLong)));
  return communicator.Barrier("end");
}

TEST(CommunicatorTest, SoloKeepsTheContract) {
  EXPECT_THAT(KeepsItsContract(*MakeSoloCommunicator()), IsOk());
}

TEST(CommunicatorTest, InProcessKeepsTheContract) {
  for (int world_size : {1, 2, 4}) EXPECT_THAT(RunOnRanks(world_size, KeepsItsContract), IsOk());
}

TEST(CommunicatorTest, GlooKeepsTheContract) {
  for (int world_size : {2, 4}) EXPECT_THAT(RunOnGloo(world_size, KeepsItsContract), IsOk());
}

TEST(CommunicatorTest, GlooTimesOutWithTheTagAndStaysBroken) {
  absl::Notification rank_0_done;
  const Body lonely = [&](Communicator& communicator) -> absl::Status {
    if (communicator.rank() == 1) {
      rank_0_done.WaitForNotification();
      return absl::OkStatus();
    }
    const absl::Status first = communicator.Barrier("step 12");
    const absl::Status second = communicator.Barrier("step 13");
    rank_0_done.Notify();
    EXPECT_EQ(first, second);
    EXPECT_EQ(ReasonOf(first), kCollectiveFailed);
    return first;
  };
  EXPECT_THAT(RunOnGloo(2, lonely, absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("'step 12' on rank 0 of 2")));
}

TEST(CommunicatorTest, AbortFreesAWaitingGlooRank) {
  absl::Notification rank_0_done;
  const Body aborted = [&](Communicator& communicator) -> absl::Status {
    if (communicator.rank() == 1) {
      rank_0_done.WaitForNotification();
      return absl::OkStatus();
    }
    Thread other("aborter", [&] { communicator.Abort("told to stop"); });
    const absl::Status status = communicator.Barrier("never");
    rank_0_done.Notify();
    return status;
  };
  EXPECT_THAT(RunOnGloo(2, aborted, absl::Seconds(3)),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("told to stop")));
}

TEST(CommunicatorTest, AFailureOnOneRankReachesAll) {
  const auto fail_on_rank_1 = [](int rank, absl::string_view tag) {
    return rank == 1 && tag == "b" ? absl::UnavailableError("cable pulled") : absl::OkStatus();
  };
  std::vector<absl::Status> seen(2);
  const Body body = [&](Communicator& communicator) -> absl::Status {
    ANNEAL_RETURN_IF_ERROR(communicator.Barrier("a"));
    return seen[communicator.rank()] = communicator.Barrier("b");
  };
  EXPECT_THAT(RunOnRanks(2, body, fail_on_rank_1), StatusIs(absl::StatusCode::kUnavailable));
  for (const absl::Status& status : seen) {
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("'b' on rank 1: cable pulled")));
  }
}

TEST(TcpStoreTest, CarriesBytesAndSaysWhatItMissed) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto server, TcpStore::Serve("127.0.0.1"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto client,
                              TcpStore::Connect(server->address(), absl::Seconds(5)));
  const std::string bytes("a\0b\xff", 4);
  ANNEAL_ASSERT_OK(client->Set("key", bytes));
  EXPECT_THAT(server->Get("key", absl::Seconds(5)), ::anneal::testing::IsOkAndHolds(bytes));
  EXPECT_THAT(client->Get("missing", absl::Milliseconds(50)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("missing")));
}

TEST(TcpStoreTest, RefusesNamesAndBadAddresses) {
  EXPECT_THAT(TcpStore::Serve("localhost"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("localhost")));
  for (const char* address : {"127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000", ":x"}) {
    EXPECT_THAT(TcpStore::Connect(address, absl::Seconds(1)),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
  }
}

}  // namespace
}  // namespace anneal::trainer
