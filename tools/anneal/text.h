#pragma once
// Text for people: names, numbers, times, tables. Pure.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/v1/job.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace anneal::cli {

// Control characters become '?': what a server says must not steer a terminal. Line ends and tabs
// stay.
std::string Printable(absl::string_view text);

// "RUNNING" for JOB_STATE_RUNNING.
std::string StateName(v1::JobState state);
bool IsTerminal(v1::JobState state);

// "01hf7yat00abcdefghjkmnpqrs" for "jobs/01hf7yat00abcdefghjkmnpqrs".
absl::string_view IdOf(absl::string_view resource_name);

// "1.5 kB", "268 MB": decimal units.
std::string FormatBytes(int64_t bytes);
// "81", "12.3k", "4.5M".
std::string FormatCount(double count);
// "42s", "3m12s", "2h05m", "3d04h". Negative ones are "0s".
std::string ShortDuration(absl::Duration duration);
// "87.5 %"
std::string FormatPercent(double fraction);

absl::Time ToTime(const google::protobuf::Timestamp& timestamp);
// "3m12s ago"; "-" for a time that is not set.
std::string FormatAgo(bool is_set, const google::protobuf::Timestamp& time, absl::Time now);

// Columns, left-aligned, two spaces apart; the header in upper case. Widths count characters.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  // As many cells as the header has.
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string Format() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace anneal::cli
