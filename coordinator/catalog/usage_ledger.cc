#include "coordinator/catalog/usage_ledger.h"

#include "common/base/status.h"
#include "coordinator/catalog/schema.h"

namespace anneal {

absl::Status AddUsage(const UsageRows& rows, Database& database) {
  if (rows.empty()) return absl::OkStatus();
  ANNEAL_ASSIGN_OR_RETURN(
      Statement add,
      database.Prepare("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                       "ON CONFLICT (day, project, creator, accelerator) DO UPDATE SET "
                       "useful = useful + excluded.useful, redone = redone + excluded.redone, "
                       "lost = lost + excluded.lost, idle = idle + excluded.idle, "
                       "free = free + excluded.free"));
  for (const auto& [key, seconds] : rows) {
    ANNEAL_RETURN_IF_ERROR(add.Bind(key.day)
                               .Bind(key.project)
                               .Bind(key.creator)
                               .Bind(static_cast<int64_t>(key.accelerator))
                               .Bind(seconds.held.useful)
                               .Bind(seconds.held.redone)
                               .Bind(seconds.held.lost)
                               .Bind(seconds.held.idle)
                               .Bind(seconds.free)
                               .Run());
    add.Reset();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<UsageLedger>> UsageLedger::Open(const std::string& data_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Database database, OpenCatalogDatabase(data_dir));
  return std::unique_ptr<UsageLedger>(new UsageLedger(std::move(database)));
}

absl::StatusOr<std::vector<std::pair<UsageKey, UsageSeconds>>> UsageLedger::Read(
    const Query& query, const UsageKey& after, int limit) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT day, project, creator, accelerator, useful, redone, lost, idle, "
                        "free FROM usage WHERE day BETWEEN ? AND ? AND (? OR project = ?) AND "
                        "(day, project, creator, accelerator) > (?, ?, ?, ?) "
                        "ORDER BY day, project, creator, accelerator LIMIT ?"));
  statement.Bind(query.first_day)
      .Bind(query.last_day)
      .Bind(static_cast<int64_t>(!query.project.has_value()))
      .Bind(query.project.value_or(""))
      .Bind(after.day)
      .Bind(after.project)
      .Bind(after.creator)
      .Bind(static_cast<int64_t>(after.accelerator))
      .Bind(static_cast<int64_t>(limit));
  std::vector<std::pair<UsageKey, UsageSeconds>> rows;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return rows;
    auto& [key, seconds] = rows.emplace_back();
    key = {statement.Int(0), statement.Text(1), statement.Text(2),
           static_cast<v1::ResourceSpec::Accelerator>(statement.Int(3))};
    seconds.held = {statement.Double(4), statement.Double(5), statement.Double(6),
                    statement.Double(7)};
    seconds.free = statement.Double(8);
  }
}

}  // namespace anneal
