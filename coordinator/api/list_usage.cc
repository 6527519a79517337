#include "coordinator/api/list_usage.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "common/base/status.h"
#include "common/rpc/paging.h"
#include "common/rpc/status.h"

namespace anneal {
namespace {

const absl::CivilDay kFirstDay(1970, 1, 1);

// `unset` for an empty text.
absl::StatusOr<int64_t> ParseDay(absl::string_view field, absl::string_view text, int64_t unset) {
  if (text.empty()) return unset;
  absl::CivilDay day;
  if (text.size() != 10 || !absl::ParseCivilTime(text, &day)) {
    return InvalidField(
        field, absl::StrCat("'", text, "' is not a day of the form 2026-11-30, a date in UTC"));
  }
  return day - kFirstDay;
}

absl::StatusOr<UsageLedger::Query> ParseQuery(const Caller& caller,
                                              const v1::ListUsageRequest& request) {
  UsageLedger::Query query;
  ANNEAL_ASSIGN_OR_RETURN(query.first_day, ParseDay("first_day", request.first_day(), 0));
  ANNEAL_ASSIGN_OR_RETURN(query.last_day, ParseDay("last_day", request.last_day(),
                                                   std::numeric_limits<int64_t>::max()));
  if (query.last_day < query.first_day) {
    return InvalidField(
        "last_day", absl::StrCat(request.last_day(), " is before first_day ", request.first_day()));
  }
  if (!request.all_projects()) query.project = caller.project;
  return query;
}

// Names of projects and creators have no slash.
std::string TokenOf(const UsageKey& key) {
  return absl::StrCat(key.day, "/", key.project, "/", key.creator, "/", key.accelerator);
}

absl::StatusOr<UsageKey> KeyOf(const std::string& token) {
  if (token.empty()) return UsageKey();
  const std::vector<std::string> parts = absl::StrSplit(token, '/');
  int accelerator = 0;
  UsageKey key;
  if (parts.size() != 4 || !absl::SimpleAtoi(parts[0], &key.day) ||
      !absl::SimpleAtoi(parts[3], &accelerator)) {
    return InvalidField("page_token", "is not a token of this list; start again without one");
  }
  key.project = parts[1];
  key.creator = parts[2];
  key.accelerator = static_cast<v1::ResourceSpec::Accelerator>(accelerator);
  return key;
}

v1::Usage UsageFrom(const UsageKey& key, const UsageSeconds& seconds) {
  v1::Usage usage;
  usage.set_day(absl::FormatCivilTime(kFirstDay + key.day));
  usage.set_project(key.project);
  usage.set_creator(key.creator);
  usage.set_accelerator(key.accelerator);
  usage.set_useful_slot_seconds(seconds.held.useful);
  usage.set_redone_slot_seconds(seconds.held.redone);
  usage.set_lost_slot_seconds(seconds.held.lost);
  usage.set_idle_slot_seconds(seconds.held.idle);
  usage.set_free_slot_seconds(seconds.free);
  return usage;
}

}  // namespace

absl::Status ListUsage(UsageLedger& ledger, const Caller& caller,
                       const v1::ListUsageRequest& request, v1::ListUsageResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const UsageLedger::Query query, ParseQuery(caller, request));
  const std::string filter = absl::StrCat("usage/", query.project.value_or("*"), "/",
                                          query.first_day, "/", query.last_day);
  ANNEAL_ASSIGN_OR_RETURN(const PageRequest page,
                          ParsePageRequest(request.page_size(), request.page_token(), filter));
  ANNEAL_ASSIGN_OR_RETURN(const UsageKey after, KeyOf(page.after_id));
  // One more than is shown tells whether there is another page.
  ANNEAL_ASSIGN_OR_RETURN(auto rows, ledger.Read(query, after, page.size + 1));
  if (rows.size() > static_cast<size_t>(page.size)) {
    rows.pop_back();
    response->set_next_page_token(MakePageToken(TokenOf(rows.back().first), filter));
  }
  for (const auto& [key, seconds] : rows) *response->add_usage() = UsageFrom(key, seconds);
  return absl::OkStatus();
}

}  // namespace anneal
