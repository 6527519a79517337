#include "coordinator/catalog/sqlite.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace anneal {
namespace {

// Writers of other connections to the same file hold the lock for one commit, or WalCheckpointer
// for some milliseconds: looked at this often at first, where SQLite's own handler would sleep for
// as long as it has slept already. Later more seldom.
constexpr absl::Duration kFirstSleeps = absl::Microseconds(100);
constexpr absl::Duration kLaterSleeps = absl::Milliseconds(5);
constexpr int kManyFirstSleeps = 200;
// Waiting longer than this means trouble.
constexpr absl::Duration kPatience = absl::Seconds(10);

// SQLite's busy handler: false when it has slept so many times and is to give up.
int SleepWhileLocked(void* most_sleeps, int times) {
  if (times >= static_cast<int>(reinterpret_cast<intptr_t>(most_sleeps))) return false;
  absl::SleepFor(times < kManyFirstSleeps ? kFirstSleeps : kLaterSleeps);
  return true;
}

absl::Status ErrorOf(sqlite3* handle, int code, absl::string_view what) {
  const std::string message = absl::StrCat(what, ": ", sqlite3_errmsg(handle));
  switch (code & 0xff) {
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
      return absl::UnavailableError(message);
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace

Statement::~Statement() {
  if (statement_ == nullptr) return;  // moved away
  Reset();
  // Two of the same text were in use at a time: one is kept.
  idle_.try_emplace(sqlite3_sql(statement_.get()), std::move(statement_));
}

Statement& Statement::Bind(int64_t value) {
  if (bind_error_ == SQLITE_OK)
    bind_error_ = sqlite3_bind_int64(statement_.get(), next_parameter_, value);
  ++next_parameter_;
  return *this;
}

Statement& Statement::Bind(double value) {
  if (bind_error_ == SQLITE_OK)
    bind_error_ = sqlite3_bind_double(statement_.get(), next_parameter_, value);
  ++next_parameter_;
  return *this;
}

Statement& Statement::Bind(absl::string_view text) {
  if (bind_error_ == SQLITE_OK) {
    bind_error_ = sqlite3_bind_text64(statement_.get(), next_parameter_, text.data(), text.size(),
                                      SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  ++next_parameter_;
  return *this;
}

Statement& Statement::BindBlob(absl::string_view bytes) {
  if (bind_error_ == SQLITE_OK) {
    // A null pointer would store NULL, not an empty blob.
    const char* data = bytes.empty() ? "" : bytes.data();
    bind_error_ = sqlite3_bind_blob64(statement_.get(), next_parameter_, data, bytes.size(),
                                      SQLITE_TRANSIENT);
  }
  ++next_parameter_;
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  sqlite3* handle = sqlite3_db_handle(statement_.get());
  if (bind_error_ != SQLITE_OK) return ErrorOf(handle, bind_error_, sqlite3_sql(statement_.get()));
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return ErrorOf(handle, code, sqlite3_sql(statement_.get()));
}

absl::Status Statement::Run() { return Step().status(); }

void Statement::Reset() {
  // The error of the last run was returned by Step already.
  (void)sqlite3_reset(statement_.get());
  (void)sqlite3_clear_bindings(statement_.get());
  next_parameter_ = 1;
  bind_error_ = SQLITE_OK;
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }
double Statement::Double(int column) const {
  return sqlite3_column_double(statement_.get(), column);
}
bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

absl::string_view Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_.get(), column);
  const int bytes = sqlite3_column_bytes(statement_.get(), column);
  return absl::string_view(static_cast<const char*>(data), data == nullptr ? 0 : bytes);
}

absl::StatusOr<Database> Database::Open(const std::string& path, Synchronous synchronous) {
  sqlite3* handle = nullptr;
  // Guarded by our callers, so SQLite's own mutexes would only cost time.
  const int flags =
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  // Made by us first, because SQLite would make it readable for everybody. Its WAL takes the same
  // mode.
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0)
    return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  close(fd);
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  Database database(handle);
  if (code != SQLITE_OK) return ErrorOf(handle, code, absl::StrCat("cannot open ", path));
  database.SetPatience(kPatience);
  const char* mode = synchronous == Synchronous::kFull ? "FULL" : "NORMAL";
  absl::Status status = database.Execute(absl::StrCat(
      "PRAGMA page_size=", kPageBytes, "; PRAGMA journal_mode=WAL; PRAGMA synchronous=", mode,
      "; PRAGMA foreign_keys=ON; PRAGMA cache_size=-2048; "
      "PRAGMA wal_autocheckpoint=",
      kLargestWalPages));
  if (!status.ok()) return Annotate(status, absl::StrCat("cannot open ", path));
  return database;
}

void Database::SetPatience(absl::Duration patience) {
  const absl::Duration first = std::min(patience, kFirstSleeps * kManyFirstSleeps);
  const intptr_t sleeps = first / kFirstSleeps + (patience - first) / kLaterSleeps;
  sqlite3_busy_handler(handle_.get(), &SleepWhileLocked, reinterpret_cast<void*>(sleeps));
}

absl::Status Database::Execute(const std::string& sql) {
  const int code = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : ErrorOf(handle_.get(), code, sql);
}

absl::StatusOr<Statement> Database::Prepare(absl::string_view sql) {
  if (auto known = idle_->extract(std::string(sql)); !known.empty())
    return Statement(std::move(known.mapped()), *idle_);
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return ErrorOf(handle_.get(), code, sql);
  return Statement({statement, &sqlite3_finalize}, *idle_);
}

int64_t Database::changes() const { return sqlite3_changes64(handle_.get()); }
int64_t Database::total_changes() const { return sqlite3_total_changes64(handle_.get()); }

absl::StatusOr<Transaction> Transaction::Begin(Database& database) {
  ANNEAL_RETURN_IF_ERROR(database.Execute("BEGIN IMMEDIATE"));
  return Transaction(database);
}

Transaction::~Transaction() {
  if (database_ == nullptr) return;
  absl::Status status = database_->Execute("ROLLBACK");
  // SQLite rolls back by itself after a full disk or an I/O error, and then says that there is
  // nothing to roll back.
  if (!status.ok()) ANNEAL_LOG(DEBUG) << "rollback" << Field("status", status.ToString());
}

absl::Status Transaction::Commit() {
  ANNEAL_RETURN_IF_ERROR(database_->Execute("COMMIT"));
  database_ = nullptr;
  return absl::OkStatus();
}

}  // namespace anneal
