#include "worker/trainer/collective/gloo_communicator.h"

#include <ATen/core/ivalue.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/reasons.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

// What ProcessGroupGloo wants of a store while it connects: set, get and wait.
class StoreAdapter : public c10d::Store {
 public:
  StoreAdapter(KeyValueStore& store, absl::Duration timeout)
      : Store(absl::ToChronoMilliseconds(timeout)), store_(store) {}

  c10::intrusive_ptr<Store> clone() override {
    return c10::make_intrusive<StoreAdapter>(store_, absl::FromChrono(timeout_));
  }
  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    Check(store_.Set(key,
                     absl::string_view(reinterpret_cast<const char*>(value.data()), value.size())));
  }
  std::vector<uint8_t> get(const std::string& key) override {
    const auto value = store_.Get(key, absl::FromChrono(timeout_));
    Check(value.status());
    return {value->begin(), value->end()};
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys,
            const std::chrono::milliseconds& timeout) override {
    for (const std::string& key : keys) Check(store_.Get(key, absl::FromChrono(timeout)).status());
  }

  int64_t add(const std::string&, int64_t) override { return Unused(); }
  bool deleteKey(const std::string&) override { return Unused(); }
  bool check(const std::vector<std::string>&) override { return Unused(); }
  int64_t getNumKeys() override { return Unused(); }

 private:
  static void Check(const absl::Status& status) { TORCH_CHECK(status.ok(), status.ToString()); }
  static int64_t Unused() { TORCH_CHECK(false, "not offered by the rendezvous"); }

  KeyValueStore& store_;
};

// The same elements as one row of bytes: Gloo moves them whatever their type.
at::Tensor AsBytes(const at::Tensor& tensor) { return tensor.view({-1}).view(at::kByte); }

absl::Status Failed(absl::Status status) {
  return WithReason(std::move(status), kCollectiveFailed);
}

// Gloo's messages carry the place in its source: "[/path/pair.cc:538] Read error ...".
std::string WithoutSourceLine(absl::string_view message) {
  const size_t open = message.find("[/");
  const size_t close = message.find("] ", open);
  if (open == message.npos || close == message.npos) return std::string(message);
  return absl::StrCat(message.substr(0, open), message.substr(close + 2));
}

class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(const GlooOptions& options, c10::intrusive_ptr<c10d::ProcessGroupGloo> group)
      : options_(options), group_(std::move(group)) {}

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }

  absl::Status AllToAll(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    return Run("all-to-all", tag, [&] {
      at::Tensor in_bytes = AsBytes(in), out_bytes = AsBytes(out);
      std::vector<int64_t> equal_parts;
      return group_->alltoall_base(out_bytes, in_bytes, equal_parts, equal_parts);
    });
  }

  absl::Status AllGather(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    const at::Tensor copies = in.view({1, -1}).expand({world_size(), -1}).contiguous();
    return AllToAll(copies, out, tag);
  }

  absl::Status AllReduceSum(at::Tensor& inout, absl::string_view tag) override {
    return Run("all-reduce", tag, [&] {
      std::vector<at::Tensor> tensors{inout};
      return group_->allreduce(tensors);
    });
  }

  // Gloo's own cannot be waited for with an abort, and on a CPU only tests compare with it.
  absl::Status ReduceScatterSum(const at::Tensor& in, at::Tensor& out,
                                absl::string_view tag) override {
    at::Tensor sum = in.clone().view({world_size(), -1});
    ANNEAL_RETURN_IF_ERROR(AllReduceSum(sum, tag));
    out.view({-1}).copy_(sum[rank()]);
    return absl::OkStatus();
  }

  absl::Status Broadcast(at::Tensor& inout, int root, absl::string_view tag) override {
    return Run("broadcast", tag, [&] {
      std::vector<at::Tensor> tensors{AsBytes(inout)};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      return group_->broadcast(tensors, options);
    });
  }

  // A sum of one number each: Gloo's own barrier has no result that could fail.
  absl::Status Barrier(absl::string_view tag) override {
    at::Tensor one = at::zeros({1});
    return AllReduceSum(one, tag);
  }

  void Abort(absl::string_view why) override {
    absl::MutexLock lock(&state_->mu);
    if (state_->broken.ok())
      state_->broken = Failed(absl::AbortedError(absl::StrCat("communicator aborted: ", why)));
  }

 private:
  // Shared with the callbacks of operations, which may end after their caller has given up.
  struct State {
    absl::Mutex mu;
    absl::Status broken ABSL_GUARDED_BY(mu);
    bool finished ABSL_GUARDED_BY(mu) = false;  // the operation under way

    bool FinishedOrBroken() ABSL_SHARED_LOCKS_REQUIRED(mu) { return finished || !broken.ok(); }
  };

  // Starts an operation and waits for it, for Gloo's timeout, or for Abort.
  template <typename StartFn>
  absl::Status Run(absl::string_view what, absl::string_view tag, StartFn start) {
    {
      absl::MutexLock lock(&state_->mu);
      if (!state_->broken.ok()) return state_->broken;
      state_->finished = false;
    }
    const std::string label =
        absl::StrCat(what, " '", tag, "' on rank ", rank(), " of ", world_size());
    const absl::Status status = CatchAll(label, [&]() -> absl::Status {
      const c10::intrusive_ptr<c10d::Work> work = start();
      work->getFuture()->addCallback([state = state_](c10::ivalue::Future&) {
        absl::MutexLock lock(&state->mu);
        state->finished = true;
      });
      {
        absl::MutexLock lock(&state_->mu);
        state_->mu.Await(absl::Condition(state_.get(), &State::FinishedOrBroken));
        if (!state_->broken.ok()) return state_->broken;
      }
      work->wait();  // finished: returns at once, or throws what went wrong
      return absl::OkStatus();
    });
    absl::MutexLock lock(&state_->mu);
    if (!status.ok() && state_->broken.ok())
      state_->broken = Failed(absl::UnavailableError(WithoutSourceLine(status.message())));
    return state_->broken;
  }

  const GlooOptions options_;
  const c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectGloo(const GlooOptions& options,
                                                          KeyValueStore& store) {
  ANNEAL_CHECK(options.world_size >= 2);
  std::unique_ptr<Communicator> communicator;
  const absl::Status connected = CatchAll("", [&] {
    auto group_options =
        c10d::ProcessGroupGloo::Options::create(absl::ToChronoMilliseconds(options.timeout));
    group_options->devices.push_back(
        c10d::ProcessGroupGloo::createDeviceForHostname(options.data_address));
    auto adapter = c10::make_intrusive<StoreAdapter>(store, options.timeout);
    auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(adapter, options.rank,
                                                             options.world_size, group_options);
    communicator = std::make_unique<GlooCommunicator>(options, std::move(group));
    return absl::OkStatus();
  });
  if (!connected.ok()) {
    return absl::UnavailableError(absl::StrCat("connect rank ", options.rank, " of ",
                                               options.world_size, " from ", options.data_address,
                                               connected.message()));
  }
  return communicator;
}

}  // namespace anneal::trainer
