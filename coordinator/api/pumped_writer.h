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
#include "grpcpp/support/server_callback.h"

namespace anneal {

// One open call. gRPC holds a raw pointer from the start to OnDone; until then the call keeps
// itself alive. Thread-safe.
template <typename Response>
class PumpedWriter : public grpc::ServerWriteReactor<Response>, public PumpedStream {
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
    absl::MutexLock lock(&mu_);
    if (writing_ || finished_) return;
    if (const absl::Status status = may_go_on_(); !status.ok()) return End(status);
    absl::StatusOr<Due> due = Next(&message_);
    if (!due.ok()) {
      End(due.status());
    } else if (*due == Due::kEnd) {
      End(absl::OkStatus());
    } else if (*due == Due::kMessage) {
      writing_ = true;
      this->StartWrite(&message_);
    }
  }
  void Abort() override {
    absl::MutexLock lock(&mu_);
    End(absl::UnavailableError("the coordinator is stopping; call again"));
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
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
  PumpedWriter(StreamPump& pump, ProjectLimits::Stream place)
      : pump_(pump), place_(std::move(place)) {}

  // What to send now. An error ends the call with it. Called by one thread at a time.
  virtual absl::StatusOr<Due> Next(Response* message) = 0;

 private:
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    // The client may come again as soon as it hears of the end.
    place_ = ProjectLimits::Stream();
    this->Finish(ToGrpcStatus(status));
  }

  StreamPump& pump_;
  // Written before the first callback and in OnDone, the last.
  std::shared_ptr<PumpedWriter> self_;
  std::function<absl::Status()> may_go_on_;
  absl::Mutex mu_;
  ProjectLimits::Stream place_ ABSL_GUARDED_BY(mu_);
  Response message_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
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
