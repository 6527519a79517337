#pragma once
// Looks a worker over when an operator asks for it (anneal.internal.Examination).

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/host/storage_marks.h"
#include "common/storage/file_system.h"
#include "worker/examiner/collective_probe.h"
#include "worker/examiner/link_probe.h"
#include "worker/examiner/slot_lender.h"

namespace anneal {

// Level-triggered as everything between coordinator and worker: it is told what is desired now,
// works on a thread of its own, "examiner", and shows what it has found so far. Owned by the
// daemon, thread-safe. Its destructor waits for the check under way, which touches the storage root
// and takes as long as that. Collectives are measured by trainers that it starts for a moment, in
// slots that no task holds.
class Examiner {
 public:
  struct Options {
    std::string data_address;
    std::string storage_root;
    std::string worker;        // its name
    std::string nvml_library;  // empty = GPUs are not used
    std::vector<TrainerSlot> slots;
    // How long it looks for what others have written before: a shared file system may show it late.
    absl::Duration mark_patience = absl::Seconds(10);
  };
  // `notify` is called from the thread, without a lock, when there is something new to see.
  // `files` and `clock` outlive it.
  Examiner(Options options, FileSystem& files, std::function<void()> notify, Clock& clock);
  ~Examiner();

  // What the coordinator wants now; null = nothing.
  void Update(const internal::Examination* wanted);
  // What has been found of that, stamped with the present time; nothing without a wish.
  std::optional<internal::ExaminationResult> result() const;
  // Whether the result has changed since the last call.
  bool TakeNews();
  // Slots that tasks hold from now on; measurements in them end at once.
  void SetBusySlots(std::set<std::string> ids) { lender_.SetBusy(std::move(ids)); }

 private:
  // What an examination leaves behind while it lasts.
  struct Traces {
    std::unique_ptr<StorageMark> mark;
    std::unique_ptr<LinkListener> listener;
    // Of the others' marks: those that were seen, and what was wrong with them while they changed.
    std::vector<std::string> marks_seen;
    std::string mixture;
  };

  void Run();
  // Of the marks.
  std::string FolderOf(const internal::Examination& wanted) const;
  // Does a step's work, and adds what it has found.
  void Do(const internal::Examination& wanted, Traces& traces, internal::ExaminationResult& result);
  void LookAtMachine(const internal::Examination& wanted, Traces& traces,
                     internal::ExaminationResult& result);
  void LookForMarks(const internal::Examination& wanted, Traces& traces,
                    internal::ExaminationResult& result);
  void ChangeMarks(const internal::Examination& wanted, Traces& traces,
                   internal::ExaminationResult& result);
  void LookForChanges(const internal::Examination& wanted, Traces& traces,
                      internal::ExaminationResult& result);
  void MeasureLinks(const internal::Examination& wanted, internal::ExaminationResult& result);
  v1::Check CheckTrainerOnGpu(const std::string& token);
  bool IsWanted(const std::string& token) const;
  // Unless it is not wanted any more.
  void Show(const internal::ExaminationResult& result);

  const Options options_;
  FileSystem& files_;
  const std::function<void()> notify_;
  Clock& clock_;
  SlotLender lender_;
  CollectiveProbe collectives_;

  mutable absl::Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<internal::Examination> wanted_ ABSL_GUARDED_BY(mu_);
  std::optional<internal::ExaminationResult> result_ ABSL_GUARDED_BY(mu_);  // of wanted_
  bool has_news_ ABSL_GUARDED_BY(mu_) = false;

  Thread thread_;  // last: runs Run() on the members above
};

}  // namespace anneal
