// anneal usage.

#include "tools/anneal/usage.h"

#include <iostream>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

struct UsageOptions {
  int days = 0;
  std::string first_day, last_day;
  UsageBy by = UsageBy::kUser;
  std::string output;  // empty = as the program's
  bool csv = false;
  bool all_projects = false;
};

absl::StatusOr<std::vector<v1::Usage>> ListUsage(Client& client, v1::ListUsageRequest request) {
  std::vector<v1::Usage> usage;
  request.set_page_size(1000);
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListUsageResponse page,
                            client.Call(&v1::ClusterService::StubInterface::ListUsage, request));
    usage.insert(usage.end(), page.usage().begin(), page.usage().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return usage;
}

// "CPU"
std::string KindOf(const UsageRow& row) {
  return std::string(
      absl::StripPrefix(v1::ResourceSpec::Accelerator_Name(row.accelerator), "ACCELERATOR_"));
}

std::string CsvCell(std::string text) {
  if (!text.empty() && absl::StrContains("=+-@\t\r", text[0])) text.insert(0, 1, '\'');
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

// "3h12m  87.5 %"
std::string Share(double seconds, const UsageRow& row) {
  if (seconds <= 0 || row.all() <= 0) return "-";
  return absl::StrCat(ShortDuration(absl::Seconds(seconds)), "  ",
                      FormatPercent(seconds / row.all()));
}

void AddTo(const UsageRow& more, UsageRow* sum) {
  sum->accelerator = more.accelerator;
  sum->useful += more.useful;
  sum->redone += more.redone;
  sum->lost += more.lost;
  sum->idle += more.idle;
  sum->free += more.free;
}

Json JsonOf(const UsageRow& row, bool total) {
  Json json = {{"accelerator", v1::ResourceSpec::Accelerator_Name(row.accelerator)},
               {"useful_slot_seconds", row.useful},
               {"redone_slot_seconds", row.redone},
               {"lost_slot_seconds", row.lost},
               {"idle_slot_seconds", row.idle},
               {"free_slot_seconds", row.free}};
  if (total) return json;
  json["day"] = row.day;
  json["project"] = row.project;
  json["creator"] = row.creator;
  return json;
}

void PrintJsonRows(const std::vector<UsageRow>& rows) {
  Json all = Json::array(), totals = Json::array();
  for (const UsageRow& row : rows) all.push_back(JsonOf(row, false));
  for (const UsageRow& row : TotalUsage(rows)) totals.push_back(JsonOf(row, true));
  std::cout << DumpJson({{"usage", all}, {"total", totals}}) << "\n";
}

// What is wrong with a day of the command line, or nothing.
std::string DayProblem(const std::string& text) {
  absl::CivilDay day;
  if (text.size() == 10 && absl::ParseCivilTime(text, &day)) return "";
  return absl::StrCat("'", text, "' is not a day of the form 2026-11-30");
}

absl::StatusOr<ExitCode> ShowUsage(CommandLine& line, const UsageOptions& options) {
  if (!options.last_day.empty() && options.last_day < options.first_day) {
    return absl::InvalidArgumentError(
        absl::StrCat("--to ", options.last_day, " is before --from ", options.first_day));
  }
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListUsageRequest request;
  request.set_all_projects(options.all_projects);
  request.set_first_day(options.first_day);
  request.set_last_day(options.last_day);
  if (options.days > 0) {
    const absl::CivilDay today = absl::ToCivilDay(Clock::Real().TimeNow(), absl::UTCTimeZone());
    request.set_first_day(absl::FormatCivilTime(today - (options.days - 1)));
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<v1::Usage> usage, ListUsage(*client, request));
  const std::vector<UsageRow> rows = SumUsage(usage, options.by);
  if (options.csv || options.output == "csv") {
    std::cout << FormatUsageCsv(rows);
  } else if (options.output == "json" || (options.output.empty() && line.json())) {
    PrintJsonRows(rows);
  } else {
    std::cout << Printable(FormatUsageTable(rows, options.by));
  }
  return kOk;
}

}  // namespace

std::vector<UsageRow> SumUsage(const std::vector<v1::Usage>& usage, UsageBy by) {
  using Key = std::tuple<std::string, bool, std::string, std::string, int>;
  std::map<Key, UsageRow> sums;
  for (const v1::Usage& one : usage) {
    UsageRow more;
    more.accelerator = one.accelerator();
    more.useful = one.useful_slot_seconds();
    more.redone = one.redone_slot_seconds();
    more.lost = one.lost_slot_seconds();
    more.idle = one.idle_slot_seconds();
    more.free = one.free_slot_seconds();
    const std::string day = by == UsageBy::kDay ? one.day() : "";
    const std::string project = by == UsageBy::kDay ? "" : one.project();
    const std::string creator = by == UsageBy::kUser ? one.creator() : "";
    const bool is_free = by != UsageBy::kDay && one.project().empty();
    UsageRow& row = sums[{day, is_free, project, creator, one.accelerator()}];
    row.day = day;
    row.project = project;
    row.creator = creator;
    AddTo(more, &row);
  }
  std::vector<UsageRow> rows;
  for (auto& [key, row] : sums) rows.push_back(std::move(row));
  return rows;
}

std::vector<UsageRow> TotalUsage(const std::vector<UsageRow>& rows) {
  std::map<int, UsageRow> sums;
  for (const UsageRow& row : rows) AddTo(row, &sums[row.accelerator]);
  std::vector<UsageRow> totals;
  for (auto& [accelerator, row] : sums) totals.push_back(std::move(row));
  return totals;
}

std::string FormatUsageTable(const std::vector<UsageRow>& rows, UsageBy by) {
  if (rows.empty()) return "no slots were held in this time\n";
  std::vector<std::string> header = {by == UsageBy::kDay ? "DAY" : "PROJECT"};
  if (by == UsageBy::kUser) header.push_back("USER");
  for (const char* name : {"SLOTS", "SLOT TIME", "USEFUL", "REDONE", "LOST", "IDLE", "FREE"})
    header.push_back(name);
  Table table(header);
  const auto add = [&](const std::string& name, const UsageRow& row) {
    std::vector<std::string> cells = {name};
    if (by == UsageBy::kUser) cells.push_back(row.creator.empty() ? "-" : row.creator);
    cells.push_back(KindOf(row));
    cells.push_back(ShortDuration(absl::Seconds(row.all())));
    for (const double seconds : {row.useful, row.redone, row.lost, row.idle, row.free})
      cells.push_back(Share(seconds, row));
    table.AddRow(cells);
  };
  for (const UsageRow& row : rows) {
    const std::string project = row.project.empty() ? "(free)" : row.project;
    add(by == UsageBy::kDay ? row.day : project, row);
  }
  for (const UsageRow& row : TotalUsage(rows)) add("total", row);
  return table.Format();
}

std::string FormatUsageCsv(const std::vector<UsageRow>& rows) {
  std::string text =
      "day,project,user,accelerator,useful_slot_seconds,redone_slot_seconds,lost_slot_seconds,"
      "idle_slot_seconds,free_slot_seconds\r\n";
  for (const UsageRow& row : rows) {
    absl::StrAppend(&text, row.day, ",", CsvCell(row.project), ",", CsvCell(row.creator), ",",
                    KindOf(row),
                    absl::StrFormat(",%.1f,%.1f,%.1f,%.1f,%.1f\r\n", row.useful, row.redone,
                                    row.lost, row.idle, row.free));
  }
  return text;
}

void AddUsageCommand(CommandLine& line) {
  auto options = std::make_shared<UsageOptions>();
  CLI::App* usage = line.AddCommand(
      nullptr, "usage", "Show slot time by project and user: useful, redone, lost and idle",
      [&line, options] { return ShowUsage(line, *options); });
  CLI::Option* days = usage->add_option("--days", options->days,
                                        "Only the last days, today included (default: all)");
  days->check(CLI::Range(1, 3650));
  usage->add_option("--from", options->first_day, "The first day, in UTC: 2026-11-30")
      ->check(DayProblem)
      ->excludes(days);
  usage->add_option("--to", options->last_day, "The last day")->check(DayProblem)->excludes(days);
  const std::map<std::string, UsageBy> by = {
      {"user", UsageBy::kUser}, {"project", UsageBy::kProject}, {"day", UsageBy::kDay}};
  usage->add_option("--by", options->by, "user (of each project; the default), project or day")
      ->transform(CLI::CheckedTransformer(by));
  usage->add_flag("--all-projects", options->all_projects,
                  "Of all projects, and of slots that nobody held (for admins)");
  usage->add_option("-o,--output", options->output, "table, json or csv")
      ->check(CLI::IsMember({"table", "json", "csv"}));
  usage->add_flag("--csv", options->csv, "The same as --output csv");
}

}  // namespace anneal::cli
