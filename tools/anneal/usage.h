#pragma once
// Who has held slots for how long, and what came of it.

#include <string>
#include <vector>

#include "anneal/v1/cluster_service.pb.h"

namespace anneal::cli {

// What a row is of; always of one kind of slots.
enum class UsageBy { kUser, kProject, kDay };

// Slot-seconds, added up.
struct UsageRow {
  // Those that the row is not of are empty.
  std::string day, project, creator;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_UNSPECIFIED;
  double useful = 0, redone = 0, lost = 0, idle = 0, free = 0;

  double all() const { return useful + redone + lost + idle + free; }
};

// In order of days, projects and creators. Free slots come last, in rows without project and
// creator; by day they are part of the day's. Pure, as all below.
std::vector<UsageRow> SumUsage(const std::vector<v1::Usage>& usage, UsageBy by);
// All rows of one kind of slots in one.
std::vector<UsageRow> TotalUsage(const std::vector<UsageRow>& rows);

// For people: with shares and totals.
std::string FormatUsageTable(const std::vector<UsageRow>& rows, UsageBy by);
// RFC 4180, with a header; a name that a spreadsheet would run as a formula is made harmless.
std::string FormatUsageCsv(const std::vector<UsageRow>& rows);

}  // namespace anneal::cli
