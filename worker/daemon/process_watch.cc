#include "worker/daemon/process_watch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr absl::Duration kLongestStop = absl::Seconds(3);
constexpr absl::Duration kLongestSilence = absl::Seconds(8);
// No more than this counts between two looks: a daemon that stood still itself, or the whole
// machine, has seen nothing of the time.
constexpr absl::Duration kLongestStep = absl::Seconds(1);
constexpr double kShareOfMemory = 0.95;

// "train, step 12, after collective 345 'reduce layers.7 step 13'"
std::string Where(const protocol::Status& said) {
  std::string where = said.phase.empty() ? "start" : said.phase;
  if (!said.rank.has_value()) return where;
  absl::StrAppend(&where, ", step ", said.rank->step);
  if (said.rank->collective_sequence > 0) {
    absl::StrAppend(&where, said.rank->in_collective ? ", inside" : ", after", " collective ",
                    said.rank->collective_sequence, " '", said.rank->collective, "'");
  }
  return where;
}

std::string Mebibytes(int64_t bytes) { return absl::StrFormat("%d MiB", bytes >> 20); }

}  // namespace

absl::StatusOr<ProcessLook> LookAtProcess(int64_t pid) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string text,
                          ReadSmallFile(absl::StrCat("/proc/", pid, "/status")));
  ProcessLook look;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const bool is_own_memory =
        absl::ConsumePrefix(&line, "RssAnon:") || absl::ConsumePrefix(&line, "RssShmem:");
    int64_t kibibytes = 0;
    if (is_own_memory && absl::ConsumeSuffix(&line, " kB") && absl::SimpleAtoi(line, &kibibytes)) {
      look.own_memory_bytes += kibibytes * 1024;
    } else if (absl::ConsumePrefix(&line, "State:")) {
      line = absl::StripLeadingAsciiWhitespace(line);
      if (!line.empty()) look.state = line[0];
    }
  }
  return look;
}

std::optional<int64_t> CountOutOfMemoryKills(const std::string& cgroup_root,
                                             const std::string& own_cgroup_file,
                                             const std::string& vmstat_file) {
  const std::string own_group = OwnCgroupFolders(cgroup_root, own_cgroup_file).front();
  for (const std::string& path : {own_group + "/memory.events", vmstat_file}) {
    const absl::StatusOr<std::string> text = ReadSmallFile(path);
    if (!text.ok()) continue;
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      int64_t count = 0;
      if (absl::ConsumePrefix(&line, "oom_kill ") && absl::SimpleAtoi(line, &count)) return count;
    }
  }
  return std::nullopt;
}

ProcessWatch::ProcessWatch(std::string name, int64_t memory_bytes, Clock& clock)
    : name_(std::move(name)),
      memory_bytes_(memory_bytes),
      clock_(clock),
      last_look_(clock.MonotonicNow()) {}

absl::Status ProcessWatch::Look(int64_t pid, bool heard, const protocol::Status& said) {
  const absl::Duration now = clock_.MonotonicNow();
  const absl::Duration step = std::min(now - std::exchange(last_look_, now), kLongestStep);
  silence_ = heard ? absl::ZeroDuration() : silence_ + step;
  const absl::StatusOr<ProcessLook> look = LookAtProcess(pid);
  if (!look.ok()) return absl::OkStatus();  // it has just ended

  stopped_ = look->state == 'T' ? stopped_ + step : absl::ZeroDuration();
  if (stopped_ > kLongestStop || silence_ > kLongestSilence) {
    return WithReason(
        absl::DeadlineExceededError(absl::StrCat(
            name_, look->state == 'T' ? " was stopped by a signal" : " no longer answers", " in ",
            Where(said), "; it is replaced")),
        "UNRESPONSIVE");
  }
  if (memory_bytes_ > 0 && static_cast<double>(look->own_memory_bytes) >
                               kShareOfMemory * static_cast<double>(memory_bytes_)) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          name_, " took ", Mebibytes(look->own_memory_bytes), " of the ",
                          Mebibytes(memory_bytes_), " that its slot has, in ", Where(said),
                          ", and was ended before others on its machine lose theirs")),
                      "OUT_OF_MEMORY");
  }
  return absl::OkStatus();
}

}  // namespace anneal
