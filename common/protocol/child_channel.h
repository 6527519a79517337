#pragma once
// The child's side of the protocol in messages.h: how anneal-prepare and anneal-trainer take orders
// and tell how they fare.
//
//   auto channel = ChildChannel::Listen(socket_path);    // given by the worker: --socket PATH
//   auto start = (*channel)->WaitForStart(absl::Minutes(1));
//   (*channel)->SetPhase("load");
//   ...
//   if ((*channel)->stop_requested() != StopMode::kNone) ...
//   (*channel)->SendReport(report);                      // OK: it will reach the coordinator
//   WriteExitRecord((*channel)->run_dir(), record);      // last words, then leave main

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/thread.h"
#include "common/protocol/line_socket.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"

namespace anneal::protocol {

// Orders only grow: a later one replaces an earlier one, never the other way round.
enum class StopMode {
  kNone,
  kPause,   // stop at the next step boundary, with a checkpoint
  kFinish,  // stop at the next step boundary, then export
  kNow,     // leave as soon as possible, publish nothing
};
// "PAUSE", "FINISH", "NOW", as Stop carries it; not for kNone.
absl::string_view StopModeName(StopMode mode);

// Owned by main(), thread-safe. One thread of its own, "channel", serves the socket; the methods
// below never wait for it, but for the two WaitFor. The daemon may vanish and come back at any
// time: the newest connection wins, and each new one is told hello, rendezvous and status from the
// start, so nothing waits in memory for an absent daemon.
//
// Reports go to the file reports.jsonl in the run folder and not through the socket, which only
// tells their number: a report survives the death of the daemon and of this process without
// acknowledgements, resending or a window to bound.
class ChildChannel {
 public:
  // `socket_path` is <run folder>/s; the run folder's name says job, generation, kind and rank.
  // FAILED_PRECONDITION if another run has already left reports in the folder.
  static absl::StatusOr<std::unique_ptr<ChildChannel>> Listen(const std::string& socket_path,
                                                              Clock& clock = Clock::Real());
  ~ChildChannel();

  const TaskKey& key() const { return key_; }
  const std::string& run_dir() const { return run_dir_; }

  // The first `start` line. DEADLINE_EXCEEDED after `timeout`; CANCELLED when told to stop NOW
  // meanwhile.
  absl::StatusOr<Start> WaitForStart(absl::Duration timeout);
  // The newest address of rank 0's store; for ranks > 0. Errors as above.
  absl::StatusOr<std::string> WaitForRendezvous(absl::Duration timeout);
  StopMode stop_requested() const;

  // Tells the daemon where this process's store listens; for rank 0.
  void SetRendezvous(const std::string& address);
  // Status: the newest value wins.
  void SetPhase(absl::string_view phase);
  void SetRankReport(const RankReport& report);

  // Appends to reports.jsonl. INVALID_ARGUMENT if the report is longer than kMaxReportBytes or has
  // not exactly one member; the errno's code if the file cannot be written: then the report is not
  // sent, and the next one may be.
  absl::Status SendReport(const Report& report);

 private:
  ChildChannel(TaskKey key, std::string run_dir, UniqueFd listener, UniqueFd reports, UniqueFd wake,
               Clock& clock);

  void Serve();
  // Whether a new connection has taken the place of the old one.
  bool AcceptConnection(std::optional<LineConnection>* connection);
  absl::Status HandleInput(LineConnection* connection);
  absl::Status HandleLine(absl::string_view text);
  // Queues news for the daemon unless older news still waits in the socket, so that little memory
  // is held for a slow daemon.
  void QueueNews(LineConnection* connection);
  void Wake();
  template <typename T>
  absl::Status Await(const std::optional<T>& value, absl::Duration timeout, absl::string_view what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const TaskKey key_;
  const std::string run_dir_;
  const UniqueFd listener_;
  const UniqueFd reports_;
  const UniqueFd wake_;  // eventfd
  Clock& clock_;

  absl::Mutex report_mu_;  // serialises appends; taken before mu_
  int64_t reports_bytes_ ABSL_GUARDED_BY(report_mu_) = 0;

  mutable absl::Mutex mu_;
  std::optional<Start> start_ ABSL_GUARDED_BY(mu_);
  std::optional<std::string> rendezvous_in_ ABSL_GUARDED_BY(mu_);
  std::optional<std::string> rendezvous_out_ ABSL_GUARDED_BY(mu_);
  StopMode stop_ ABSL_GUARDED_BY(mu_) = StopMode::kNone;
  Status status_ ABSL_GUARDED_BY(mu_);
  bool status_is_news_ ABSL_GUARDED_BY(mu_) = false;
  bool rendezvous_is_news_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;

  Thread thread_;  // last: runs Serve() on the members above
};

// Leaves `record` as exit.json in the run folder for the worker to read. Also useful before
// ChildChannel::Listen succeeded.
absl::Status WriteExitRecord(const std::string& run_dir, const ExitRecord& record);

}  // namespace anneal::protocol
