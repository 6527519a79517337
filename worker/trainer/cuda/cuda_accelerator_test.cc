// NCCL on a real device: a world of one rank, where every collective has a known result, and one
// that NCCL refuses. Several GPUs are not needed.

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>

#include <map>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "common/base/status_matchers.h"
#include "worker/trainer/cuda/testing/cuda_library.h"

namespace anneal::trainer::cuda {
namespace {

using testing::TheAccelerator;

class SharedStore : public KeyValueStore {
 public:
  absl::Status Set(absl::string_view key, absl::string_view value) override {
    absl::MutexLock lock(&mu_);
    values_[std::string(key)] = std::string(value);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) override {
    const auto is_set = [&] { return values_.contains(std::string(key)); };
    absl::MutexLock lock(&mu_);
    if (!mu_.AwaitWithTimeout(absl::Condition(&is_set), timeout)) {
      return absl::DeadlineExceededError(key);
    }
    return values_[std::string(key)];
  }

 private:
  absl::Mutex mu_;
  std::map<std::string, std::string> values_ ABSL_GUARDED_BY(mu_);
};

TEST(CudaAcceleratorTest, AWorldOfOneGetsItsOwnValuesBack) {
  SharedStore store;
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      const auto communicator,
      TheAccelerator().Connect(
          {.rank = 0, .world_size = 1, .data_address = "127.0.0.1", .timeout = absl::Seconds(60)},
          store));
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kLong}) {
    const auto options = at::TensorOptions(TheAccelerator().device()).dtype(type);
    const at::Tensor in = at::arange(100, options);
    for (const auto collective :
         {&Communicator::AllToAll, &Communicator::AllGather, &Communicator::ReduceScatterSum}) {
      at::Tensor out = at::full({100}, -1, options);
      ANNEAL_ASSERT_OK((communicator.get()->*collective)(in, out, "test"));
      EXPECT_TRUE(out.equal(in));
    }
    at::Tensor inout = in.clone();
    ANNEAL_ASSERT_OK(communicator->AllReduceSum(inout, "test"));
    ANNEAL_ASSERT_OK(communicator->Broadcast(inout, 0, "test"));
    EXPECT_TRUE(inout.equal(in));
  }
  ANNEAL_EXPECT_OK(communicator->Barrier("test"));
}

// NCCL refuses two ranks on one device; what matters is that both ranks get an error, and soon.
TEST(CudaAcceleratorTest, ARefusedWorldIsAnErrorNotAHang) {
  SharedStore store;
  absl::Status status[2];
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&store, &status, rank] {
      status[rank] = TheAccelerator()
                         .Connect({.rank = rank,
                                   .world_size = 2,
                                   .data_address = "127.0.0.1",
                                   .timeout = absl::Seconds(30)},
                                  store)
                         .status();
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_FALSE(status[0].ok());
  EXPECT_FALSE(status[1].ok());
  std::printf("%s\n%s\n", status[0].ToString().c_str(), status[1].ToString().c_str());
}

TEST(CudaAcceleratorTest, AnUnknownDataAddressIsNamed) {
  SharedStore store;
  EXPECT_THAT(
      TheAccelerator().Connect({.rank = 0, .world_size = 2, .data_address = "192.0.2.1"}, store),
      anneal::testing::StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr("192.0.2.1")));
}

}  // namespace
}  // namespace anneal::trainer::cuda

int main(int argc, char** argv) {
  return anneal::trainer::cuda::testing::RunTestsOnGpu(argc, argv);
}
