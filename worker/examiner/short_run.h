#pragma once
// A process that measures something and ends.

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/format/json.h"
#include "worker/examiner/slot_lender.h"

namespace anneal {

// One of anneal-trainer's short commands (common/protocol/bench_messages.h), started as a child of
// the daemon and not of the keeper: it is no task, and nothing is lost with it. Its destructor
// kills and reaps it. Guarded by its owner.
class ShortRun {
 public:
  // `must_end` is asked every few milliseconds while it is waited for: true breaks off. The run may
  // take `patience` in all.
  static absl::StatusOr<std::unique_ptr<ShortRun>> Start(const TrainerSlot& slot,
                                                         const std::vector<std::string>& arguments,
                                                         std::function<bool()> must_end,
                                                         absl::Duration patience, Clock& clock);
  ~ShortRun();

  // What follows `word` on the next line that begins with it; others are passed over. If the
  // process ends before, what it said on standard error. ABORTED, DEADLINE_EXCEEDED.
  absl::StatusOr<std::string> AwaitWord(absl::string_view word);
  // The last line that is a JSON object, once the process has ended well.
  absl::StatusOr<Json> AwaitResult();

 private:
  ShortRun(std::function<bool()> must_end, absl::Duration deadline, Clock& clock);

  // The next line. OUT_OF_RANGE at the end of the output.
  absl::StatusOr<std::string> ReadLine();
  // Of the process, which has closed its output: OK if it ended well.
  absl::Status Reap();
  std::string LastWords() const;

  const std::function<bool()> must_end_;
  const absl::Duration deadline_;
  Clock& clock_;
  std::string program_, command_;  // for errors
  UniqueFd output_, errors_;
  std::string unread_;
  pid_t pid_ = 0;  // 0 = reaped
};

}  // namespace anneal
