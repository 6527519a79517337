#include "coordinator/server/job_queue.h"

#include <algorithm>

#include "coordinator/lifecycle/proto_time.h"

namespace anneal {
namespace {

absl::Time WaitsSince(const internal::JobRecord& record) {
  return record.has_state_time() ? TimeOf(record.state_time()) : PlaceOf(record).since;
}

}  // namespace

QueuePlace PlaceOf(const internal::JobRecord& record) {
  return {
      .priority = record.job().resolved().spec().priority(),
      .since = TimeOf(record.has_queue_time() ? record.queue_time() : record.job().create_time()),
      .id = record.id()};
}

std::vector<Placement> PlacementsOf(const internal::JobRecord& record) {
  std::vector<Placement> placements;
  for (const internal::RankRecord& rank : record.train().ranks())
    placements.push_back({rank.worker(), rank.slot_id(), rank.device_uuid()});
  return placements;
}

namespace {

// What it wants, whether it waits for that now or is prepared first.
WaitingJob WantOf(const internal::JobRecord& record) {
  const v1::JobState state = record.job().state();
  const v1::ResourceSpec& resources = record.job().resolved().spec().resources();
  // Jobs of earlier versions have but one number.
  const bool elastic = resources.has_min_slots();
  WaitingJob job{.place = PlaceOf(record),
                 .waits_since = WaitsSince(record),
                 .needs_prepare = state == v1::JOB_STATE_PENDING,
                 .min_slots = elastic ? resources.min_slots() : resources.slots(),
                 .max_slots = elastic ? resources.max_slots() : resources.slots(),
                 .accelerator = resources.accelerator(),
                 .recovering = state == v1::JOB_STATE_RECOVERING};
  if (job.recovering) job.kept = PlacementsOf(record);
  return job;
}

}  // namespace

std::optional<WaitingJob> AsWaiting(const internal::JobRecord& record) {
  const v1::JobState state = record.job().state();
  if (state != v1::JOB_STATE_PENDING && state != v1::JOB_STATE_QUEUED &&
      state != v1::JOB_STATE_RECOVERING) {
    return std::nullopt;
  }
  return WantOf(record);
}

void SlotsWanted::Add(const WaitingJob& job, int sign) {
  int& wanted = job.accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? gpu : cpu;
  wanted += sign * std::max(0, job.min_slots - static_cast<int>(job.kept.size()));
}

absl::Time NotBefore(const internal::JobRecord& record) {
  return record.job().state() == v1::JOB_STATE_PENDING ? absl::InfinitePast()
                                                       : TimeOf(record.retry().not_before());
}

void JobQueue::Put(const internal::JobRecord& record) {
  Remove(record.id());
  if (record.job().state() == v1::JOB_STATE_PREPARING) {
    const auto [placed, is_new] = in_preparation_.emplace(record.id(), WantOf(record));
    wanted_.Add(placed->second);
  }
  std::optional<WaitingJob> job = AsWaiting(record);
  if (!job.has_value()) return;
  const Kind kind = job->needs_prepare                                      ? Kind::kPrepare
                    : job->accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? Kind::kGpu
                                                                            : Kind::kCpu;
  const Key key(!job->recovering, job->place);
  places_[record.id()] = {kind, key};
  Entry& entry = jobs_[kind][key];
  entry = {*std::move(job), NotBefore(record)};
  wanted_.Add(entry.job);
  WaitsOf(entry.job).emplace(entry.job.waits_since, &entry);
}

void JobQueue::Remove(const std::string& id) {
  if (const auto prepared = in_preparation_.find(id); prepared != in_preparation_.end()) {
    wanted_.Add(prepared->second, -1);
    in_preparation_.erase(prepared);
  }
  const auto found = places_.find(id);
  if (found == places_.end()) return;
  const auto& [kind, key] = found->second;
  const auto waiting = jobs_[kind].find(key);
  const Entry& entry = waiting->second;
  wanted_.Add(entry.job, -1);
  WaitsOf(entry.job).erase({entry.job.waits_since, &entry});
  jobs_[kind].erase(waiting);
  places_.erase(found);
}

std::vector<std::string> JobQueue::NextInTurn(size_t count) {
  std::vector<std::string> ids;
  for (auto it = places_.upper_bound(last_in_turn_); it != places_.end() && ids.size() < count;
       ++it)
    ids.push_back(it->first);
  last_in_turn_ = ids.empty() ? "" : ids.back();
  return ids;
}

absl::Duration JobQueue::LongestOf(const Waits& waits, absl::Time now) {
  for (const auto& [since, entry] : waits) {
    if (now >= entry->not_before) return std::max(absl::ZeroDuration(), now - since);
  }
  return absl::ZeroDuration();
}

LongestWaits JobQueue::FindLongestWaits(absl::Time now) const {
  return {.prepare = LongestOf(waits_for_prepare_, now), .slots = LongestOf(waits_for_slots_, now)};
}

std::vector<WaitingJob> JobQueue::First(size_t depth, absl::Time now) const {
  std::vector<WaitingJob> first;
  for (const auto& [kind, jobs] : jobs_) {
    size_t left = depth;
    for (auto it = jobs.begin(); it != jobs.end() && left > 0; ++it) {
      if (now < it->second.not_before) continue;
      first.push_back(it->second.job);
      --left;
    }
  }
  return first;
}

}  // namespace anneal
