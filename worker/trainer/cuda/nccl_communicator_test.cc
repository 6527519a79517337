#include "worker/trainer/cuda/nccl_communicator.h"

#include <ATen/ops/zeros.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "worker/trainer/cuda/testing/fake_nccl_api.h"

namespace anneal::trainer::cuda {
namespace {

using anneal::testing::IsOk;
using anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeNccl;
using testing::FakeNcclApi;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Who sleeps moves the time: these tests have one thread.
class SelfMovingClock : public SimulatedClock {
 public:
  void Sleep(absl::Duration duration) override { AdvanceTime(duration); }
};

class MapStore : public KeyValueStore {
 public:
  absl::Status Set(absl::string_view key, absl::string_view value) override {
    values[std::string(key)] = std::string(value);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration) override {
    const auto found = values.find(std::string(key));
    if (found == values.end())
      return absl::DeadlineExceededError(absl::StrCat("no rank has set ", key));
    return found->second;
  }
  std::map<std::string, std::string> values;
};

class NcclCommunicatorTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(int rank = 0) {
    auto api = std::make_unique<FakeNcclApi>(nccl_);
    api_ = api.get();
    return ConnectNccl({.rank = rank, .world_size = 2, .timeout = absl::Seconds(1)}, store_,
                       std::move(api), clock_);
  }
  // A communicator that joined, with the calls so far forgotten.
  std::unique_ptr<Communicator> Connected() {
    auto communicator = Connect();
    EXPECT_THAT(communicator, IsOk());
    nccl_.calls.clear();
    return std::move(communicator).value();
  }

  FakeNccl nccl_;
  FakeNcclApi* api_ = nullptr;
  MapStore store_;
  SelfMovingClock clock_;
  at::Tensor four_ = at::zeros({4});
};

TEST_F(NcclCommunicatorTest, AllRanksJoinWithRankZerosId) {
  nccl_.polls_until_idle = 3;
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto first, Connect(0));
  EXPECT_THAT(nccl_.calls, ElementsAre("GetUniqueId", "CommInit"));
  EXPECT_EQ(first->rank(), 0);
  EXPECT_EQ(first->world_size(), 2);

  nccl_.calls.clear();
  nccl_.joined_with.clear();
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto second, Connect(1));
  EXPECT_THAT(nccl_.calls, ElementsAre("CommInit"));
  EXPECT_EQ(nccl_.joined_with, nccl_.id);
}

TEST_F(NcclCommunicatorTest, JoiningEndsWhenRankZeroNeverShowsUp) {
  EXPECT_THAT(Connect(1), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                   AllOf(HasSubstr("rank 1 of 2"), HasSubstr("nccl_unique_id"))));
  EXPECT_THAT(nccl_.calls, IsEmpty());
}

TEST_F(NcclCommunicatorTest, AForeignIdIsRefused) {
  ANNEAL_ASSERT_OK(store_.Set("nccl_unique_id", "short"));
  EXPECT_THAT(Connect(1), StatusIs(absl::StatusCode::kInternal, HasSubstr("5 bytes")));
}

TEST_F(NcclCommunicatorTest, JoiningEndsWhenTheOthersNeverShowUp) {
  nccl_.polls_until_idle = -1;
  EXPECT_THAT(Connect(), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("within 1s")));
  EXPECT_THAT(nccl_.calls, ElementsAre("GetUniqueId", "CommInit", "CommAbort"));
}

TEST_F(NcclCommunicatorTest, AFailedJoinIsAborted) {
  nccl_.fail_call = "CommInit";
  nccl_.failure = ncclSystemError;
  EXPECT_THAT(Connect(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("NCCL result 2")));
  EXPECT_EQ(nccl_.calls.back(), "CommAbort");
}

TEST_F(NcclCommunicatorTest, AllToAllSendsEqualPartsInOneGroup) {
  const auto communicator = Connected();
  const at::Tensor in = at::zeros({8});
  at::Tensor out = at::zeros({8});
  ANNEAL_EXPECT_OK(communicator->AllToAll(in, out, "parts"));
  EXPECT_THAT(nccl_.calls, ElementsAre("GroupStart", "Send 0+4", "Recv 0+4", "Send 1+4", "Recv 1+4",
                                       "GroupEnd"));
  EXPECT_THAT(api_->sent_from, ElementsAre(in.const_data_ptr(), in[4].const_data_ptr()));
  EXPECT_THAT(api_->received_to, ElementsAre(out.mutable_data_ptr(), out[4].mutable_data_ptr()));
}

TEST_F(NcclCommunicatorTest, CountsAreThoseNcclAsksFor) {
  const auto communicator = Connected();
  at::Tensor eight = at::zeros({8});
  ANNEAL_EXPECT_OK(communicator->AllGather(four_, eight, "a"));
  ANNEAL_EXPECT_OK(communicator->ReduceScatterSum(eight, four_, "b"));
  ANNEAL_EXPECT_OK(communicator->AllReduceSum(eight, "c"));
  ANNEAL_EXPECT_OK(communicator->Broadcast(eight, 1, "d"));
  ANNEAL_EXPECT_OK(communicator->Barrier("e"));
  EXPECT_THAT(nccl_.calls, ElementsAre("AllGather 4", "ReduceScatterSum 4", "AllReduceSum 8",
                                       "Broadcast 1+8", "AllReduceSum 1"));
}

TEST_F(NcclCommunicatorTest, WaitsForNcclAndForTheDevice) {
  const auto communicator = Connected();
  nccl_.polls_until_idle = 2000;  // long enough to sleep in between
  nccl_.polls_until_reached = 2000;
  ANNEAL_EXPECT_OK(communicator->Barrier("slow"));
}

TEST_F(NcclCommunicatorTest, ALateDeviceIsGivenUpAtTheDeadline) {
  const auto communicator = Connected();
  nccl_.polls_until_reached = -1;
  const absl::Duration before = clock_.MonotonicNow();
  EXPECT_THAT(communicator->Barrier("reduce layers.7 step 12"),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       AllOf(HasSubstr("all-reduce 'reduce layers.7 step 12' on rank 0 of 2"),
                             HasSubstr("within 1s"))));
  EXPECT_LE(clock_.MonotonicNow() - before, absl::Seconds(1.1));
  EXPECT_THAT(nccl_.calls, ElementsAre("AllReduceSum 1", "CommAbort"));
}

TEST_F(NcclCommunicatorTest, ALostPeerIsNoticedWhileTheDeviceWaits) {
  const auto communicator = Connected();
  nccl_.polls_until_reached = -1;
  nccl_.on_poll = [this, polls = 0]() mutable {
    if (++polls == 10) nccl_.async_error = ncclRemoteError;
  };
  EXPECT_THAT(communicator->Barrier("b"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("NCCL result 6")));
  EXPECT_EQ(nccl_.calls.back(), "CommAbort");
}

TEST_F(NcclCommunicatorTest, AfterOneFailureNoCallReachesNccl) {
  {
    const auto communicator = Connected();
    nccl_.fail_call = "AllReduceSum";
    EXPECT_THAT(communicator->AllReduceSum(four_, "first"),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("'first'")));
    EXPECT_THAT(nccl_.calls, ElementsAre("AllReduceSum 4", "CommAbort"));
    nccl_.fail_call.clear();
    EXPECT_THAT(communicator->Broadcast(four_, 0, "second"),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("'first'")));
  }
  EXPECT_THAT(nccl_.calls, ElementsAre("AllReduceSum 4", "CommAbort"));
}

TEST_F(NcclCommunicatorTest, AFailedGroupIsEnded) {
  const auto communicator = Connected();
  nccl_.fail_call = "Recv";
  nccl_.failure = ncclInvalidArgument;
  at::Tensor out = at::zeros({4});
  EXPECT_THAT(communicator->AllToAll(four_, out, "a"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("NCCL result 4")));
  EXPECT_THAT(nccl_.calls,
              ElementsAre("GroupStart", "Send 0+2", "Recv 0+2", "GroupEnd", "CommAbort"));
}

TEST_F(NcclCommunicatorTest, ADeviceErrorBreaksIt) {
  const auto communicator = Connected();
  nccl_.device_error = absl::InternalError("an illegal memory access was encountered");
  EXPECT_THAT(communicator->Barrier("b"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("illegal memory access")));
  EXPECT_EQ(nccl_.calls.back(), "CommAbort");
}

TEST_F(NcclCommunicatorTest, AbortEndsTheCallUnderWay) {
  const auto communicator = Connected();
  nccl_.polls_until_reached = -1;
  nccl_.on_poll = [&, polls = 0]() mutable {
    if (++polls == 10) communicator->Abort("rank 1 has ended");
  };
  const absl::Duration before = clock_.MonotonicNow();
  EXPECT_THAT(communicator->Barrier("b"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("rank 1 has ended")));
  EXPECT_LT(clock_.MonotonicNow() - before, absl::Milliseconds(1));
  EXPECT_EQ(nccl_.calls.back(), "CommAbort");
}

TEST_F(NcclCommunicatorTest, AbortEndsTheNextCall) {
  const auto communicator = Connected();
  communicator->Abort("told to");
  EXPECT_THAT(communicator->Barrier("b"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("told to")));
  EXPECT_THAT(nccl_.calls, ElementsAre("CommAbort"));
}

TEST_F(NcclCommunicatorTest, ClosesInOrder) {
  Connected().reset();
  EXPECT_THAT(nccl_.calls, ElementsAre("CommFinalize", "CommDestroy"));
}

TEST_F(NcclCommunicatorTest, ClosesWithoutPeersThatDoNotAnswer) {
  auto communicator = Connected();
  nccl_.polls_until_idle = -1;
  communicator.reset();
  EXPECT_THAT(nccl_.calls, ElementsAre("CommFinalize", "CommAbort"));
}

}  // namespace
}  // namespace anneal::trainer::cuda
