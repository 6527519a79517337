#pragma once
// A server-streaming call on gRPC's callback API that is fed by a StreamPump.

#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/status.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/stream_pump.h"
#include "coordinator/api/transfer_pool.h"
#include "grpcpp/support/server_callback.h"

namespace anneal {

// One open call. gRPC holds a raw pointer from the start to OnDone; until then the call keeps
// itself alive. Thread-safe.
template <typename Response>
class PumpedWriter : public grpc::ServerWriteReactor<Response>,
                     public PumpedStream,
                     public std::enable_shared_from_this<PumpedWriter<Response>> {
 public:
  enum class Due { kNothing, kMessage, kEnd };

  // Hands the call to gRPC and the pump. An error of `may_go_on`, asked before each message, ends
  // the call.
  static grpc::ServerWriteReactor<Response>* Start(std::shared_ptr<PumpedWriter> writer,
                                                   std::function<absl::Status()> may_go_on) {
    PumpedWriter* raw = writer.get();
    raw->self_ = writer;
    raw->may_go_on_ = std::move(may_go_on);
    raw->pump_.Add(std::move(writer));
    raw->Pump();
    return raw;
  }

  void Pump() override {
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      // Whoever is at it looks again.
      again_ = again_ || busy_;
      if (std::exchange(busy_, true)) return;
    }
    if (pool_ == nullptr) return Look();
    pool_->Post([self = this->shared_from_this()] { self->Look(); });
  }
  void Abort() override {
    absl::MutexLock lock(&mu_);
    End(absl::UnavailableError("the coordinator is stopping; call again"));
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      busy_ = false;
      if (!ok) End(absl::CancelledError("the client has gone"));
    }
    Pump();
  }
  void OnCancel() override {
    absl::MutexLock lock(&mu_);
    End(absl::CancelledError("cancelled by the client"));
  }
  void OnDone() override {
    const std::shared_ptr<PumpedWriter> self = std::move(self_);
    pump_.Remove(this);
  }

 protected:
  // With a `pool`, which must outlive the call, Next runs there and may take its time.
  PumpedWriter(StreamPump& pump, ProjectLimits::Stream place, TransferPool* pool = nullptr)
      : pump_(pump), pool_(pool), place_(std::move(place)) {}

  // What to send now. An error ends the call with it. Called by one thread at a time, without a
  // lock: the call may end meanwhile.
  virtual absl::StatusOr<Due> Next(Response* message) = 0;

 private:
  // By the one that has set busy_.
  void Look() {
    while (true) {
      const absl::Status may_go_on = may_go_on_();
      const absl::StatusOr<Due> due = may_go_on.ok() ? Next(&message_) : may_go_on;
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      if (due.ok() && *due == Due::kMessage) {
        again_ = false;  // there is a look after each write
        this->StartWrite(&message_);
        return;
      }
      if (due.ok() && *due == Due::kNothing) {
        if (std::exchange(again_, false)) continue;
        busy_ = false;
        return;
      }
      return End(due.status());
    }
  }
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    // The client may come again as soon as it hears of the end.
    place_ = ProjectLimits::Stream();
    this->Finish(ToGrpcStatus(status));
  }

  StreamPump& pump_;
  TransferPool* const pool_;
  // Written before the first callback and in OnDone, the last.
  std::shared_ptr<PumpedWriter> self_;
  std::function<absl::Status()> may_go_on_;
  absl::Mutex mu_;
  ProjectLimits::Stream place_ ABSL_GUARDED_BY(mu_);
  // Somebody looks for what is due, or writes it, and has message_ to itself.
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  Response message_;
  // Another look was asked for meanwhile.
  bool again_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

// A call that is refused at once.
template <typename Response>
class RefusedWriter : public grpc::ServerWriteReactor<Response> {
 public:
  explicit RefusedWriter(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace anneal
