#include "worker/trainer/collective/bandwidth.h"

#include <vector>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "gmock/gmock.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::anneal::trainer::testing::RunOnRanks;

absl::StatusOr<Bandwidth> Measure(Communicator& communicator, Clock& clock = Clock::Real()) {
  return MeasureBandwidth(communicator, at::kCPU, 1 << 16, clock);
}

TEST(BandwidthTest, BothRanksGetAllFigures) {
  EXPECT_THAT(RunOnRanks(2,
                         [](Communicator& communicator) -> absl::Status {
                           ANNEAL_ASSIGN_OR_RETURN(const Bandwidth measured, Measure(communicator));
                           EXPECT_GT(measured.one_way_bytes_per_second, 0);
                           EXPECT_GT(measured.all_to_all_bytes_per_second, 0);
                           EXPECT_GT(measured.all_reduce_bytes_per_second, 0);
                           EXPECT_GT(measured.latency_seconds, 0);
                           return absl::OkStatus();
                         }),
              IsOk());
}

// Time passes only while a rank sends to the other as the test says: so the figures are exact.
class OneWaySlower : public Communicator {
 public:
  OneWaySlower(Communicator& base, int slow_root, SimulatedClock& clock)
      : base_(base), slow_root_(slow_root), clock_(clock) {}
  int rank() const override { return base_.rank(); }
  int world_size() const override { return base_.world_size(); }
  absl::Status AllToAll(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    return Take(1, base_.AllToAll(in, out, tag));
  }
  absl::Status AllGather(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    return base_.AllGather(in, out, tag);
  }
  absl::Status AllReduceSum(at::Tensor& inout, absl::string_view tag) override {
    return Take(2, base_.AllReduceSum(inout, tag));
  }
  absl::Status ReduceScatterSum(const at::Tensor& in, at::Tensor& out,
                                absl::string_view tag) override {
    return base_.ReduceScatterSum(in, out, tag);
  }
  absl::Status Broadcast(at::Tensor& inout, int root, absl::string_view tag) override {
    return Take(root == slow_root_ ? 4 : 1, base_.Broadcast(inout, root, tag));
  }
  absl::Status Barrier(absl::string_view tag) override { return base_.Barrier(tag); }
  void Abort(absl::string_view why) override { base_.Abort(why); }

 private:
  absl::Status Take(int seconds, absl::Status result) {
    clock_.AdvanceTime(absl::Seconds(seconds));
    return result;
  }

  Communicator& base_;
  const int slow_root_;
  SimulatedClock& clock_;
};

TEST(BandwidthTest, EachDirectionIsMeasuredByItself) {
  std::vector<Bandwidth> found(2);
  ASSERT_THAT(RunOnRanks(2,
                         [&](Communicator& communicator) -> absl::Status {
                           SimulatedClock clock;
                           OneWaySlower slower(communicator, /*slow_root=*/1, clock);
                           ANNEAL_ASSIGN_OR_RETURN(found[communicator.rank()],
                                                   Measure(slower, clock));
                           return absl::OkStatus();
                         }),
              IsOk());
  EXPECT_EQ(found[0].one_way_bytes_per_second, (1 << 16) / 4.0) << "what comes from rank 1";
  EXPECT_EQ(found[1].one_way_bytes_per_second, 1 << 16);
  for (const Bandwidth& bandwidth : found) {
    EXPECT_EQ(bandwidth.all_to_all_bytes_per_second, 1 << 16);
    EXPECT_EQ(bandwidth.all_reduce_bytes_per_second, (1 << 16) / 2.0);
    EXPECT_EQ(bandwidth.latency_seconds, 2);
  }
}

TEST(BandwidthTest, AFailureAndAnotherWorldAreErrors) {
  const auto fails = [](int, absl::string_view tag) {
    return tag == "bench all-to-all" ? absl::UnavailableError("cut") : absl::OkStatus();
  };
  EXPECT_FALSE(RunOnRanks(
                   2, [](Communicator& c) { return Measure(c).status(); }, fails)
                   .ok());
  EXPECT_THAT(RunOnRanks(3, [](Communicator& c) { return Measure(c).status(); }),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace anneal::trainer
