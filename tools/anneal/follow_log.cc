#include "tools/anneal/follow_log.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/retry.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

constexpr BackoffPolicy kReconnect{.first_bound = absl::Milliseconds(200),
                                   .max_bound = absl::Seconds(3)};
// How often a job is asked whether it has a trainer now.
constexpr absl::Duration kLookAgain = absl::Milliseconds(500);

class LogFollower {
 public:
  LogFollower(Client& client, const std::string& name, const FollowLogOptions& options,
              std::ostream& out, std::ostream& notes, Clock& clock, Random& random)
      : client_(client),
        name_(name),
        options_(options),
        out_(out),
        notes_(notes),
        clock_(clock),
        backoff_(kReconnect, random),
        generation_(options.generation) {}

  absl::Status Run() {
    last_contact_ = clock_.MonotonicNow();
    while (true) {
      const absl::StatusOr<bool> ended = FollowOnce();
      if (ended.ok() && *ended) return absl::OkStatus();
      if (ended.ok()) continue;
      if (!IsRetryable(ended.status())) return ended.status();
      if (clock_.MonotonicNow() - last_contact_ > options_.patience) return ended.status();
      if (!lost_) notes_ << "lost the coordinator; trying to reach it again" << std::endl;
      lost_ = true;
      clock_.Sleep(backoff_.NextDelay());
    }
  }

 private:
  bool prepares() const { return options_.rank < 0; }

  // One step: a wait, or one stream from where the last one ended. True = there is no more.
  absl::StatusOr<bool> FollowOnce() {
    if (generation_ == 0 && !prepares()) {
      ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, GetJob());
      if (job.generation() == 0 && !IsTerminal(job.state())) {
        Wait(job);
        return false;
      }
      generation_ = std::max<int64_t>(1, job.generation());
    }
    const absl::Status status = ReadOn();
    if (!out_) return true;
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    // Also where this attempt has no such log: it may have had fewer ranks, or not come so far.
    ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, GetJob());
    const bool goes_on = options_.generation == 0 && !prepares();
    if (goes_on && generation_ < job.generation()) {
      ++generation_;
      offset_ = 0;
      out_ << "--- generation " << generation_ << " ---" << std::endl;
      return false;
    }
    if (!status.ok())
      return wrote_ && IsTerminal(job.state()) ? absl::StatusOr<bool>(true) : status;
    return !goes_on || IsTerminal(job.state());
  }

  absl::StatusOr<v1::Job> GetJob() {
    v1::GetJobRequest request;
    request.set_name(name_);
    ANNEAL_ASSIGN_OR_RETURN(v1::Job job,
                            client_.Call(&v1::FineTuningService::StubInterface::GetJob, request));
    Heard();
    return job;
  }

  void Wait(const v1::Job& job) {
    const std::string what =
        absl::StrCat("no trainer yet: the job is ", StateName(job.state()),
                     job.state_message().empty() ? "" : absl::StrCat(": ", job.state_message()));
    if (what != waits_for_) notes_ << Printable(what) << std::endl;
    waits_for_ = what;
    clock_.Sleep(kLookAgain);
  }

  absl::Status ReadOn() {
    v1::ReadJobLogRequest request;
    request.set_name(name_);
    request.set_generation(generation_);
    request.set_rank(options_.rank);
    request.set_offset(offset_);
    request.set_follow(true);
    grpc::ClientContext context;
    client_.Prepare(context);
    const auto stream = client_.jobs().ReadJobLog(&context, request);
    for (v1::LogChunk chunk; stream->Read(&chunk);) {
      Heard();
      wrote_ = true;
      offset_ += static_cast<int64_t>(chunk.data().size());
      out_ << (options_.printable ? Printable(chunk.data()) : chunk.data()) << std::flush;
      if (!out_) context.TryCancel();  // nobody reads on
    }
    const absl::Status status = client_.ToStatus(stream->Finish());
    if (status.ok()) Heard();
    return status;
  }

  void Heard() {
    last_contact_ = clock_.MonotonicNow();
    backoff_.Reset();
    if (lost_) notes_ << "connected again" << std::endl;
    lost_ = false;
  }

  Client& client_;
  const std::string name_;
  const FollowLogOptions options_;
  std::ostream& out_;
  std::ostream& notes_;
  Clock& clock_;
  Backoff backoff_;
  int64_t generation_;  // 0 = not known yet
  int64_t offset_ = 0;  // in its log
  bool wrote_ = false;
  bool lost_ = false;
  std::string waits_for_;
  absl::Duration last_contact_;
};

}  // namespace

absl::Status FollowLog(Client& client, const std::string& name, const FollowLogOptions& options,
                       std::ostream& out, std::ostream& notes, Clock& clock, Random& random) {
  return LogFollower(client, name, options, out, notes, clock, random).Run();
}

}  // namespace anneal::cli
