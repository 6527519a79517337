#pragma once
// The little of SQLite's C interface that the catalog uses, with Status and ownership.
//
//   ANNEAL_ASSIGN_OR_RETURN(Statement s, database.Prepare("SELECT record FROM jobs WHERE id = ?"));
//   s.Bind(id);
//   ANNEAL_ASSIGN_OR_RETURN(bool found, s.Step());
//   if (found) Parse(s.Text(0));

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace anneal {

namespace internal_sqlite {

using Handle = std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)>;
// Statements that have been used and can be used again, by their text.
using IdleStatements = std::unordered_map<std::string, Handle>;

}  // namespace internal_sqlite

// A prepared statement. Guarded by its caller; must not outlive its database.
class Statement {
 public:
  Statement(Statement&&) = default;
  Statement& operator=(Statement&&) = delete;
  // Leaves it to the next who prepares the same text.
  ~Statement();

  // Binds the next parameter, from the first on. A failure shows in Step().
  Statement& Bind(int64_t value);
  Statement& Bind(double value);
  Statement& Bind(absl::string_view text);
  // Serialized messages: any bytes.
  Statement& BindBlob(absl::string_view bytes);

  // Runs up to the next row; false means there is none.
  absl::StatusOr<bool> Step();
  // Runs a statement that gives no rows.
  absl::Status Run();
  // Ready to bind and run again.
  void Reset();

  // Columns of the present row, from 0. Views hold until the next Step().
  int64_t Int(int column) const;
  double Double(int column) const;
  bool IsNull(int column) const;
  absl::string_view Bytes(int column) const;
  std::string Text(int column) const { return std::string(Bytes(column)); }

 private:
  friend class Database;
  Statement(internal_sqlite::Handle statement, internal_sqlite::IdleStatements& idle)
      : statement_(std::move(statement)), idle_(idle) {}

  internal_sqlite::Handle statement_;
  internal_sqlite::IdleStatements& idle_;
  int next_parameter_ = 1;
  int bind_error_ = SQLITE_OK;
};

// Of files that are made from now on; older ones keep theirs of 4 KiB. A table WITHOUT ROWID puts
// a row of more than a quarter of a page on a page of its own, and a job has 1.1 KB.
inline constexpr int kPageBytes = 8192;

// A commit moves the log into the file itself only when it has so many pages:
// WalCheckpointer does it before, beside the commits.
inline constexpr int kLargestWalPages = 16384;

// One connection to one file in WAL mode. Guarded by its caller.
class Database {
 public:
  // FULL: a commit survives power loss. NORMAL: it survives a killed process; power loss may take
  // the last ones, never the file's consistency.
  enum class Synchronous { kFull, kNormal };

  // Opens or creates the file (mode 0600). UNAVAILABLE or DATA_LOSS with the path.
  static absl::StatusOr<Database> Open(const std::string& path, Synchronous synchronous);

  // How long to wait for other connections that write. Ten seconds at first.
  void SetPatience(absl::Duration patience);

  // Runs statements that give no rows, separated by semicolons.
  absl::Status Execute(const std::string& sql);
  // Statements are kept for their next use, so `sql` should be one of few texts.
  absl::StatusOr<Statement> Prepare(absl::string_view sql);
  // Rows that the last statement changed.
  int64_t changes() const;
  // Rows changed through this connection since it was opened.
  int64_t total_changes() const;

 private:
  explicit Database(sqlite3* handle) : handle_(handle, &sqlite3_close_v2) {}

  std::unique_ptr<sqlite3, decltype(&sqlite3_close_v2)> handle_;
  // On the heap, because statements hold on to it while databases are moved.
  std::unique_ptr<internal_sqlite::IdleStatements> idle_ =
      std::make_unique<internal_sqlite::IdleStatements>();
};

// Rolls back in its destructor unless committed. Takes the write lock at once, so that nothing read
// inside goes stale.
class Transaction {
 public:
  static absl::StatusOr<Transaction> Begin(Database& database);
  Transaction(Transaction&& other) : database_(std::exchange(other.database_, nullptr)) {}
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();

  absl::Status Commit();

 private:
  explicit Transaction(Database& database) : database_(&database) {}

  Database* database_;
};

}  // namespace anneal
