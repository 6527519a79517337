#pragma once
// Records out of statements: private to this folder.

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {

// Parses column `column` of the statement's present row.
template <typename Record>
absl::StatusOr<Record> RecordAt(const Statement& statement, int column) {
  Record record;
  const absl::string_view bytes = statement.Bytes(column);
  if (!record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError(absl::StrCat("the catalog holds a broken ", record.GetTypeName()));
  }
  return record;
}

// The record of the first row, or NOT_FOUND with `name`.
template <typename Record>
absl::StatusOr<Record> OnlyRecord(Statement& statement, absl::string_view name) {
  ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
  if (!found) return WithReason(absl::NotFoundError(absl::StrCat("no ", name)), "NOT_FOUND");
  return RecordAt<Record>(statement, 0);
}

template <typename Record>
absl::StatusOr<std::vector<Record>> AllRecords(Statement& statement) {
  std::vector<Record> records;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return records;
    ANNEAL_ASSIGN_OR_RETURN(Record record, RecordAt<Record>(statement, 0));
    records.push_back(std::move(record));
  }
}

}  // namespace anneal
