#pragma once
// The catalog's tables. Every row belongs to a project from the first migration on.

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {

// Opens <data_dir>/catalog.db and brings its schema up to date. FAILED_PRECONDITION if a newer
// program has written it.
absl::StatusOr<Database> OpenCatalogDatabase(const std::string& data_dir);

// The same for <data_dir>/metrics.db, which holds step metrics: many small rows whose last second
// may be lost with the power.
absl::StatusOr<Database> OpenMetricsDatabase(const std::string& data_dir);

}  // namespace anneal
