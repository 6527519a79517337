#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/stepper.h"

namespace anneal {

void Stepper::CommitCheckpoint(const protocol::CheckpointReport& report) {
  // The generation is the fence: only the newest one's reports come this far, and a folder that is
  // not its own is no checkpoint of this job.
  const int64_t generation = record_.train().generation();
  if (report.dir != CheckpointName(record_, report.step, generation)) {
    AddEvent(v1::JobEvent::LEVEL_WARNING,
             absl::StrCat("a checkpoint in the wrong folder is ignored: ", report.dir));
    return;
  }
  internal::CheckpointRecord checkpoint;
  checkpoint.set_step(report.step);
  checkpoint.set_generation(generation);
  checkpoint.set_dir(report.dir);
  checkpoint.set_manifest_sha256(report.manifest_sha256);
  checkpoint.set_size_bytes(report.bytes);
  *checkpoint.mutable_create_time() = TimestampOf(now_);
  if (report.validation_loss.has_value()) checkpoint.set_validation_loss(*report.validation_loss);
  checkpoint.set_write_seconds(report.write_seconds);
  checkpoint.set_stall_seconds(report.stall_seconds);
  checkpoint.set_trained_slot_seconds(TrainedBy(record_, report.write_seconds));
  auto& checkpoints = *record_.mutable_checkpoints();
  // A generation that has gone back replaces what is ahead of it: the steps are done again.
  checkpoints.erase(std::remove_if(checkpoints.begin(), checkpoints.end(),
                                   [&](const auto& other) { return other.step() >= report.step; }),
                    checkpoints.end());
  *checkpoints.Add() = checkpoint;
  std::rotate(checkpoints.pointer_begin(), checkpoints.pointer_end() - 1,
              checkpoints.pointer_end());
  RetainCheckpoints(std::max(1, job().resolved().spec().checkpoint().keep_last()), &record_);
  job().set_checkpoint_step(report.step);
  *AddEvent(v1::JobEvent::LEVEL_INFO, absl::StrCat("checkpoint after step ", report.step))
       .mutable_checkpoint() = CheckpointFrom(record_, checkpoint);
}

void Stepper::Resumed(const protocol::ResumedReport& report) {
  record_.mutable_train()->set_first_step(report.step);
  job().mutable_progress()->set_step(report.step);
  const auto redone = [&](int64_t step) {
    return absl::StrCat(step - report.step, step - report.step == 1 ? " step is" : " steps are",
                        " done again");
  };
  for (const protocol::DamagedCheckpoint& damaged : report.damaged) {
    for (auto* checkpoints :
         {record_.mutable_checkpoints(), record_.mutable_parent_checkpoints()}) {
      const auto found =
          std::find_if(checkpoints->begin(), checkpoints->end(),
                       [&](const auto& checkpoint) { return checkpoint.dir() == damaged.dir; });
      if (found == checkpoints->end()) continue;
      AddEvent(
          v1::JobEvent::LEVEL_WARNING,
          absl::StrCat("the checkpoint after step ", found->step(), " is damaged and set aside (",
                       damaged.why, "): ", redone(found->step())));
      checkpoints->erase(found);
    }
  }
  job().set_checkpoint_step(record_.checkpoints().empty() ? 0 : record_.checkpoints(0).step());
  if (!report.damaged.empty()) CountRedone(&record_, &slot_time_);
  if (!report.dir.empty())
    AddEvent(v1::JobEvent::LEVEL_INFO, absl::StrCat("goes on after step ", report.step));
  if (!report.fingerprint_change.empty()) {
    AddEvent(v1::JobEvent::LEVEL_WARNING,
             absl::StrCat("goes on with other numerics, so that the last bits may differ: ",
                          report.fingerprint_change));
  }
}

void Stepper::BeginStop(v1::JobState to, internal::StopReason why, absl::string_view reason,
                        absl::string_view message) {
  Enter(to, reason, message);
  record_.set_stop_reason(why);
}

void Stepper::Pause(absl::string_view message) {
  record_.clear_keep_slots_until();
  std::string text(message);
  if (!record_.checkpoints().empty()) {
    absl::StrAppend(&text, "; goes on after step ", record_.checkpoints(0).step(), " when resumed");
  }
  // Said first: entering the state forgets why.
  const bool limit = record_.stop_reason() == internal::STOP_REASON_LIMIT;
  Enter(v1::JOB_STATE_PAUSED, limit ? "LIMIT_REACHED" : "PAUSED", text);
}

absl::Status Stepper::On(const MoveRequired& event) {
  if (state() == v1::JOB_STATE_STARTING) {
    // Nothing has been done that its checkpoints do not hold.
    EnterQueue("MOVED", event.message);
  } else if (state() == v1::JOB_STATE_RUNNING && !record_.finish_requested()) {
    BeginStop(v1::JOB_STATE_PREEMPTING, event.reason, "MOVED", event.message);
  }
  return absl::OkStatus();
}

void Stepper::CheckLimits() {
  const v1::LimitSpec& limits = job().resolved().spec().limits();
  const double seconds = absl::ToDoubleSeconds(now_ - TimeOf(record_.train().start_time()));
  const double hours = (record_.train_seconds() + seconds - record_.limit_base_seconds()) / 3600;
  const double slot_seconds = record_.slot_account().ended_attempts() +
                              seconds * record_.train().ranks_size() -
                              record_.limit_base_slot_seconds();
  std::string reached;
  if (limits.max_hours() > 0 && hours >= limits.max_hours())
    reached = absl::StrCat("limits.max_hours ", limits.max_hours());
  if (limits.max_slot_seconds() > 0 && slot_seconds >= limits.max_slot_seconds())
    reached = absl::StrCat("limits.max_slot_seconds ", limits.max_slot_seconds());
  if (reached.empty()) return;
  BeginStop(v1::JOB_STATE_PAUSING, internal::STOP_REASON_LIMIT, "LIMIT_REACHED",
            absl::StrCat(reached, " is reached: stops with a checkpoint"));
}

}  // namespace anneal
