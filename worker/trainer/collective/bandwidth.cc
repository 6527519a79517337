#include "worker/trainer/collective/bandwidth.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

constexpr int kTransfers = 3;
constexpr int kLatencyCalls = 20;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Measurement {
 public:
  Measurement(Communicator& communicator, at::Device device, int64_t bytes, Clock& clock)
      : communicator_(communicator),
        options_(at::TensorOptions(at::kFloat).device(device)),
        numbers_(std::max<int64_t>(1, bytes / 4)),
        clock_(clock) {}

  absl::StatusOr<Bandwidth> Run() {
    Bandwidth bandwidth;
    for (const int root : {0, 1}) {
      ANNEAL_ASSIGN_OR_RETURN(const double speed, OneWay(root));
      if (root != communicator_.rank()) bandwidth.one_way_bytes_per_second = speed;
    }
    ANNEAL_ASSIGN_OR_RETURN(bandwidth.all_to_all_bytes_per_second, AllToAll());
    ANNEAL_ASSIGN_OR_RETURN(bandwidth.all_reduce_bytes_per_second, AllReduce());
    ANNEAL_ASSIGN_OR_RETURN(bandwidth.latency_seconds, Latency());
    return bandwidth;
  }

 private:
  // Both begin at the same time, as far as a barrier brings that about. The first call makes
  // connections and is not counted.
  template <typename Call>
  absl::StatusOr<double> SecondsOf(int calls, const Call& call) {
    std::vector<double> seconds;
    for (int i = 0; i <= calls; ++i) {
      ANNEAL_RETURN_IF_ERROR(communicator_.Barrier("bench start"));
      const absl::Duration start = clock_.MonotonicNow();
      ANNEAL_RETURN_IF_ERROR(call());
      if (i > 0) seconds.push_back(absl::ToDoubleSeconds(clock_.MonotonicNow() - start));
    }
    return std::max(Median(seconds), 1e-9);
  }

  template <typename Call>
  absl::StatusOr<double> SpeedOf(const Call& call) {
    ANNEAL_ASSIGN_OR_RETURN(const double seconds, SecondsOf(kTransfers, call));
    return static_cast<double>(numbers_ * 4) / seconds;
  }

  at::Tensor Filled(double value) const { return at::full({numbers_}, value, options_); }

  // The last number of those that have arrived.
  static absl::Status Expect(const at::Tensor& arrived, double expected) {
    const double last = arrived.view({-1})[-1].item<double>();
    if (last == expected) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("the other rank sent ", expected, ", ", last, " arrived"));
  }

  absl::StatusOr<double> OneWay(int root) {
    at::Tensor tensor = Filled(communicator_.rank() + 1);
    ANNEAL_ASSIGN_OR_RETURN(const double speed, SpeedOf([&] {
                              return communicator_.Broadcast(tensor, root, "bench one way");
                            }));
    ANNEAL_RETURN_IF_ERROR(Expect(tensor, root + 1));
    return speed;
  }

  absl::StatusOr<double> AllToAll() {
    const at::Tensor in = at::full({2 * numbers_}, communicator_.rank() + 1, options_);
    at::Tensor out = at::empty({2 * numbers_}, options_);
    ANNEAL_ASSIGN_OR_RETURN(const double speed, SpeedOf([&] {
                              return communicator_.AllToAll(in, out, "bench all-to-all");
                            }));
    ANNEAL_RETURN_IF_ERROR(Expect(out, 2));
    return speed;
  }

  absl::StatusOr<double> AllReduce() {
    at::Tensor tensor = Filled(1);
    ANNEAL_ASSIGN_OR_RETURN(const double speed, SpeedOf([&] {
                              return communicator_.AllReduceSum(tensor, "bench all-reduce");
                            }));
    ANNEAL_RETURN_IF_ERROR(Expect(tensor, 1 << (kTransfers + 1)));
    return speed;
  }

  absl::StatusOr<double> Latency() {
    at::Tensor one = at::full({1}, 0, options_);
    return SecondsOf(kLatencyCalls,
                     [&] { return communicator_.AllReduceSum(one, "bench latency"); });
  }

  Communicator& communicator_;
  const at::TensorOptions options_;
  const int64_t numbers_;  // float32, each way
  Clock& clock_;
};

}  // namespace

absl::StatusOr<Bandwidth> MeasureBandwidth(Communicator& communicator, at::Device device,
                                           int64_t bytes, Clock& clock) {
  if (communicator.world_size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("bandwidth is measured between 2 ranks, not ", communicator.world_size()));
  }
  return Measurement(communicator, device, bytes, clock).Run();
}

}  // namespace anneal::trainer
