#include "worker/daemon/coordinator_link.h"

#include <utility>

#include "common/base/log.h"
#include "common/rpc/channel.h"

namespace anneal {

using internal::Desired;
using internal::Observed;

// One Sync call. Made and destroyed by the link's thread; gRPC calls the On methods from its own
// threads.
//
// All state is guarded by the link's lock. WriteIfIdle, broken and writing assert that it is held,
// because the analysis does not see that `link_.mu_` is their caller's `mu_`. A hold keeps the call
// from ending while others may still write: gRPC reports the end (OnDone) only after Finish, when
// the link no longer points here.
class CoordinatorLink::Stream : public grpc::ClientBidiReactor<Observed, Desired> {
 public:
  explicit Stream(CoordinatorLink& link) : link_(link) {}

  void Start() {
    PrepareCall(context_, link_.api_key_, absl::InfiniteDuration());
    link_.stub_->async()->Sync(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }
  // Ends the call and waits for its last word.
  grpc::Status Finish() {
    context_.TryCancel();
    RemoveHold();
    absl::MutexLock lock(&link_.mu_);
    link_.mu_.Await(absl::Condition(&done_));
    return status_;
  }

  // Sends the link's newest state unless a write is under way.
  void WriteIfIdle() {
    link_.mu_.AssertHeld();
    if (writing_ || broken_ || !link_.unsent_) return;
    writing_ = true;
    link_.unsent_ = false;
    outgoing_ = *link_.observed_;
    StartWrite(&outgoing_);
  }
  bool broken() const {
    link_.mu_.AssertReaderHeld();
    return broken_;
  }
  bool writing() const {
    link_.mu_.AssertReaderHeld();
    return writing_;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Break();
    link_.Heard(std::move(incoming_));
    incoming_ = Desired();
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Break();
    absl::MutexLock lock(&link_.mu_);
    writing_ = false;
    if (link_.stream_ == this) WriteIfIdle();
  }
  void OnDone(const grpc::Status& status) override {
    absl::MutexLock lock(&link_.mu_);
    status_ = status;
    done_ = true;
  }

 private:
  void Break() {
    absl::MutexLock lock(&link_.mu_);
    broken_ = true;
  }

  CoordinatorLink& link_;
  grpc::ClientContext context_;
  Desired incoming_;
  Observed outgoing_;
  bool writing_ ABSL_GUARDED_BY(link_.mu_) = false;
  bool broken_ ABSL_GUARDED_BY(link_.mu_) = false;
  bool done_ ABSL_GUARDED_BY(link_.mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(link_.mu_);
};

CoordinatorLink::CoordinatorLink(std::shared_ptr<grpc::Channel> channel, std::string api_key,
                                 std::function<void()> notify, Clock& clock, Random& random)
    : stub_(internal::FleetService::NewStub(channel)),
      api_key_(std::move(api_key)),
      notify_(std::move(notify)),
      clock_(clock),
      backoff_({.first_bound = absl::Milliseconds(100), .max_bound = absl::Seconds(5)}, random),
      thread_("link", [this] { Run(); }) {}

CoordinatorLink::~CoordinatorLink() {
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
  }
  thread_.Join();
}

void CoordinatorLink::Send(const Observed& observed) {
  absl::MutexLock lock(&mu_);
  observed_ = observed;
  unsent_ = true;
  if (stream_ != nullptr) stream_->WriteIfIdle();
}

std::optional<Desired> CoordinatorLink::TakeDesired() {
  absl::MutexLock lock(&mu_);
  return std::exchange(desired_, std::nullopt);
}

bool CoordinatorLink::connected() const {
  absl::MutexLock lock(&mu_);
  return connected_;
}

bool CoordinatorLink::sent() const {
  absl::MutexLock lock(&mu_);
  return stream_ != nullptr && !unsent_ && !stream_->writing();
}

void CoordinatorLink::Reconnect() {
  absl::MutexLock lock(&mu_);
  if (stream_ == nullptr) return;
  refused_ = true;
  stream_->Cancel();
}

void CoordinatorLink::Heard(Desired desired) {
  {
    absl::MutexLock lock(&mu_);
    if (!connected_)
      ANNEAL_LOG(INFO) << "connected" << Field("coordinator_epoch", desired.coordinator_epoch());
    connected_ = true;
    desired_ = std::move(desired);
  }
  notify_();
}

void CoordinatorLink::Run() {
  std::string last_why;
  while (true) {
    Stream stream(*this);
    bool heard = false;
    {
      absl::MutexLock lock(&mu_);
      if (closing_) return;
      stream.Start();
      stream_ = &stream;
      unsent_ = observed_.has_value();
      stream.WriteIfIdle();
      auto over = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stream.broken() || closing_; };
      mu_.Await(absl::Condition(&over));
      stream_ = nullptr;
      heard = std::exchange(connected_, false);
      if (heard && !std::exchange(refused_, false)) backoff_.Reset();
    }
    const grpc::Status status = stream.Finish();
    if (heard) notify_();
    // One line for each change: a coordinator that stays away for hours fills no log.
    if (heard || status.error_message() != last_why) {
      ANNEAL_LOG(WARNING) << (heard ? "lost the coordinator" : "cannot reach the coordinator")
                          << Field("why", status.error_message());
    }
    last_why = status.error_message();
    absl::MutexLock lock(&mu_);
    clock_.AwaitWithTimeout(&mu_, absl::Condition(&closing_), backoff_.NextDelay());
  }
}

}  // namespace anneal
