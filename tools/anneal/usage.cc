// anneal usage.

#include "tools/anneal/usage.h"

#include <iostream>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Jobs = v1::FineTuningService::StubInterface;

struct UsageOptions {
  int days = 0;
  bool csv = false;
};

// Those made since `since`, newest first, as they are listed.
absl::StatusOr<std::vector<v1::Job>> ListJobsSince(Client& client, absl::Time since) {
  std::vector<v1::Job> jobs;
  v1::ListJobsRequest request;
  request.set_page_size(1000);
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobsResponse page, client.Call(&Jobs::ListJobs, request));
    for (const v1::Job& job : page.jobs()) {
      if (ToTime(job.create_time()) < since) return jobs;
      jobs.push_back(job);
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return jobs;
}

std::string CsvCell(std::string text) {
  if (!text.empty() && absl::StrContains("=+-@\t\r", text[0])) text.insert(0, 1, '\'');
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

void PrintTable(const std::vector<UsageRow>& rows) {
  Table table({"PROJECT", "USER", "JOBS", "TOKENS", "USEFUL SLOT TIME", "REDONE"});
  for (const UsageRow& row : rows) {
    table.AddRow({row.project, row.creator, absl::StrCat(row.jobs),
                  FormatCount(static_cast<double>(row.trained_tokens)),
                  ShortDuration(absl::Seconds(row.useful_slot_seconds)),
                  ShortDuration(absl::Seconds(row.redone_slot_seconds))});
  }
  std::cout << table.Format();
}

void PrintJsonRows(const std::vector<UsageRow>& rows) {
  Json all = Json::array();
  for (const UsageRow& row : rows) {
    all.push_back({{"project", row.project},
                   {"creator", row.creator},
                   {"jobs", row.jobs},
                   {"trained_tokens", row.trained_tokens},
                   {"useful_slot_seconds", row.useful_slot_seconds},
                   {"redone_slot_seconds", row.redone_slot_seconds}});
  }
  std::cout << DumpJson({{"usage", all}}) << "\n";
}

absl::StatusOr<ExitCode> ShowUsage(CommandLine& line, const UsageOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  const absl::Time since = options.days == 0
                               ? absl::InfinitePast()
                               : Clock::Real().TimeNow() - absl::Hours(24 * options.days);
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, ListJobsSince(*client, since));
  const std::vector<UsageRow> rows = SumUsage(jobs);
  if (options.csv) {
    std::cout << FormatUsageCsv(rows);
  } else if (line.json()) {
    PrintJsonRows(rows);
  } else {
    PrintTable(rows);
  }
  return kOk;
}

}  // namespace

std::vector<UsageRow> SumUsage(const std::vector<v1::Job>& jobs) {
  std::map<std::pair<std::string, std::string>, UsageRow> sums;
  for (const v1::Job& job : jobs) {
    UsageRow& row = sums[{job.project(), job.creator()}];
    row.project = job.project();
    row.creator = job.creator();
    ++row.jobs;
    row.trained_tokens += job.usage().trained_tokens();
    row.useful_slot_seconds += job.usage().slot_seconds() - job.usage().redone_slot_seconds();
    row.redone_slot_seconds += job.usage().redone_slot_seconds();
  }
  std::vector<UsageRow> rows;
  for (auto& [key, row] : sums) rows.push_back(std::move(row));
  return rows;
}

std::string FormatUsageCsv(const std::vector<UsageRow>& rows) {
  std::string text = "project,user,jobs,trained_tokens,useful_slot_seconds,redone_slot_seconds\r\n";
  for (const UsageRow& row : rows) {
    absl::StrAppend(&text, CsvCell(row.project), ",", CsvCell(row.creator), ",",
                    absl::StrFormat("%d,%d,%.1f,%.1f\r\n", row.jobs, row.trained_tokens,
                                    row.useful_slot_seconds, row.redone_slot_seconds));
  }
  return text;
}

void AddUsageCommand(CommandLine& line) {
  auto options = std::make_shared<UsageOptions>();
  CLI::App* usage =
      line.AddCommand(nullptr, "usage", "Show slot time by project and user: useful and done again",
                      [&line, options] { return ShowUsage(line, *options); });
  usage->add_option("--days", options->days, "Only jobs made in the last days (default: all)")
      ->check(CLI::Range(1, 3650));
  usage->add_flag("--csv", options->csv, "Comma-separated values, with a header");
}

}  // namespace anneal::cli
