#include "tools/anneal/follow.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <ostream>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/rpc/retry.h"
#include "tools/anneal/interrupt.h"
#include "tools/anneal/progress.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

constexpr BackoffPolicy kReconnect{.first_bound = absl::Milliseconds(200),
                                   .max_bound = absl::Seconds(3)};

// The call under way, so that another thread can cancel it; and the wish to stop, so that no new
// one starts. Thread-safe.
class CurrentCall {
 public:
  // False = stopped.
  bool Begin(grpc::ClientContext* context) {
    absl::MutexLock lock(&mu_);
    if (!stopped_) context_ = context;
    return !stopped_;
  }
  void End() {
    absl::MutexLock lock(&mu_);
    context_ = nullptr;
  }
  void Stop() {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  // Waits; true if stopped meanwhile.
  bool StoppedWithin(Clock& clock, absl::Duration duration) {
    absl::MutexLock lock(&mu_);
    return clock.AwaitWithTimeout(&mu_, absl::Condition(&stopped_), duration);
  }

 private:
  absl::Mutex mu_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

bool IsHeld(v1::JobState state) {
  return state == v1::JOB_STATE_VALIDATED || state == v1::JOB_STATE_PAUSED;
}

class Follower {
 public:
  Follower(Client& client, const std::string& name, const FollowOptions& options, Clock& clock,
           Random& random)
      : client_(client),
        name_(name),
        options_(options),
        clock_(clock),
        backoff_(kReconnect, random),
        null_stream_(nullptr),
        display_(options.progress != nullptr ? *options.progress : null_stream_, clock,
                 options.terminal_width) {}

  absl::StatusOr<Followed> Run() {
    InterruptWatch interrupt([this] { call_.Stop(); });
    absl::Duration last_contact = clock_.MonotonicNow();
    bool warned = false;
    for (;;) {
      const absl::StatusOr<bool> ended = WatchOnce(&last_contact, &warned);
      if (interrupt.interrupted()) {
        display_.Clear();
        return Followed{.job = job_, .detached = true};
      }
      if (ended.ok() && *ended) break;
      if (!ended.ok() && !IsRetryable(ended.status())) return ended.status();
      if (!ended.ok() && clock_.MonotonicNow() - last_contact > options_.patience)
        return ended.status();
      if (!ended.ok() && !warned) {
        display_.Note("lost the coordinator; the job goes on, trying to reach it again");
        warned = true;
      }
      call_.StoppedWithin(clock_, backoff_.NextDelay());
    }
    display_.Clear();
    return Followed{.job = job_};
  }

 private:
  // One stream from where the last one ended. True = the job has ended, or is held where that is an
  // end.
  absl::StatusOr<bool> WatchOnce(absl::Duration* last_contact, bool* warned) {
    v1::WatchJobRequest request;
    request.set_name(name_);
    request.set_after_sequence(display_.last_sequence());
    request.set_after_step(display_.last_step());
    grpc::ClientContext context;
    client_.Prepare(context);
    if (!call_.Begin(&context)) return false;
    const auto stream = client_.jobs().WatchJob(&context, request);
    bool done = false;
    v1::WatchJobResponse update;
    while (!done && stream->Read(&update)) {
      *last_contact = clock_.MonotonicNow();
      backoff_.Reset();
      if (*warned) display_.Note("connected again");
      *warned = false;
      if (update.has_snapshot()) job_ = update.snapshot();
      display_.Show(update);
      done = update.has_snapshot() && options_.until_held && IsHeld(job_.state());
    }
    call_.End();
    if (done) context.TryCancel();
    const absl::Status status = client_.ToStatus(stream->Finish());
    if (done) return true;
    if (!status.ok()) return status;
    return FetchJob();
  }

  // The stream has ended well: does the job agree that it is over?
  absl::StatusOr<bool> FetchJob() {
    v1::GetJobRequest request;
    request.set_name(name_);
    ANNEAL_ASSIGN_OR_RETURN(job_,
                            client_.Call(&v1::FineTuningService::StubInterface::GetJob, request));
    return IsTerminal(job_.state()) || (options_.until_held && IsHeld(job_.state()));
  }

  Client& client_;
  const std::string name_;
  const FollowOptions options_;
  Clock& clock_;
  Backoff backoff_;
  std::ostream null_stream_;
  ProgressDisplay display_;
  CurrentCall call_;
  v1::Job job_;
};

}  // namespace

absl::StatusOr<Followed> FollowJob(Client& client, const std::string& name,
                                   const FollowOptions& options, Clock& clock, Random& random) {
  return Follower(client, name, options, clock, random).Run();
}

int TerminalWidth(int fd) {
  winsize size = {};
  if (::isatty(fd) == 0) return 0;
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace anneal::cli
