#include "coordinator/fleet/fleet_service.h"

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/status.h"

namespace anneal {
namespace {

// gRPC holds a raw pointer from the call's start to OnDone; until then the session keeps itself
// alive.
class SyncReactor : public grpc::ServerBidiReactor<internal::Observed, internal::Desired>,
                    public FleetSession {
 public:
  // An error of `may_go_on`, asked at each message, ends the stream.
  static SyncReactor* Start(FleetInbox& inbox, std::function<absl::Status()> may_go_on) {
    std::shared_ptr<SyncReactor> reactor(new SyncReactor(inbox, std::move(may_go_on)));
    SyncReactor* raw = reactor.get();
    raw->self_ = std::move(reactor);
    raw->StartRead(&raw->incoming_);
    return raw;
  }

  void Send(internal::Desired desired) override {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    waiting_ = std::move(desired);
    WriteNext();
  }

  void ReadNext() override {
    absl::MutexLock lock(&mu_);
    if (!finished_) StartRead(&incoming_);
  }

  void Close(absl::Status status) override {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    finished_ = true;
    Finish(ToGrpcStatus(status));
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The worker has half-closed, or is gone.
      Close(absl::OkStatus());
      return;
    }
    if (const absl::Status status = may_go_on_(); !status.ok()) return Close(status);
    inbox_.WorkerSynced(self_, std::move(incoming_));
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (ok && !finished_) WriteNext();
  }

  void OnCancel() override { Close(absl::CancelledError("the stream was cancelled")); }

  void OnDone() override {
    const std::shared_ptr<SyncReactor> self = std::move(self_);
    inbox_.SessionClosed(self);
  }

 private:
  SyncReactor(FleetInbox& inbox, std::function<absl::Status()> may_go_on)
      : inbox_(inbox), may_go_on_(std::move(may_go_on)) {}

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || !waiting_.has_value()) return;
    outgoing_ = *std::move(waiting_);
    waiting_.reset();
    writing_ = true;
    StartWrite(&outgoing_);
  }

  FleetInbox& inbox_;
  const std::function<absl::Status()> may_go_on_;
  // Written before the first callback and in OnDone, the last.
  std::shared_ptr<SyncReactor> self_;
  // Written by gRPC between StartRead and OnReadDone.
  internal::Observed incoming_;

  absl::Mutex mu_;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  internal::Desired outgoing_;
  std::optional<internal::Desired> waiting_ ABSL_GUARDED_BY(mu_);
};

class RefusedReactor : public grpc::ServerBidiReactor<internal::Observed, internal::Desired> {
 public:
  explicit RefusedReactor(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerBidiReactor<internal::Observed, internal::Desired>* FleetServiceImpl::Sync(
    grpc::CallbackServerContext* context) {
  if (absl::Status known = authenticator_.CallerOf(*context, Right::kWork).status(); !known.ok())
    return new RefusedReactor(known);
  return SyncReactor::Start(inbox_, authenticator_.RecheckOf(*context));
}

}  // namespace anneal
