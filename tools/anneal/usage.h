#pragma once
// Who used how much.

#include <cstdint>
#include <string>
#include <vector>

#include "anneal/v1/job.pb.h"

namespace anneal::cli {

// The jobs of one user in one project, added up.
struct UsageRow {
  std::string project, creator;
  int64_t jobs = 0;
  int64_t trained_tokens = 0;
  double useful_slot_seconds = 0;
  double redone_slot_seconds = 0;
};

// By project and creator. Pure.
std::vector<UsageRow> SumUsage(const std::vector<v1::Job>& jobs);
// RFC 4180, with a header; a name that a spreadsheet would run as a formula is made harmless. Pure.
std::string FormatUsageCsv(const std::vector<UsageRow>& rows);

}  // namespace anneal::cli
