#include "coordinator/catalog/sqlite.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using testing::IsOk;
using testing::StatusIs;

class SqliteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<Database> opened =
        Database::Open(folder_.path() + "/db", Database::Synchronous::kNormal);
    ASSERT_THAT(opened, IsOk());
    database_.emplace(*std::move(opened));
    ASSERT_THAT(database_->Execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, name TEXT)"),
                IsOk());
  }
  void Insert(int64_t n, absl::string_view name) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Statement put,
                                database_->Prepare("INSERT INTO numbers VALUES (?, ?)"));
    ASSERT_THAT(put.Bind(n).Bind(name).Run(), IsOk());
  }

  testing::TempDir folder_;
  std::optional<Database> database_;
};

constexpr char kSelect[] = "SELECT name FROM numbers WHERE n >= ? ORDER BY n";

TEST_F(SqliteTest, AStatementIsAsNewAtItsNextUse) {
  Insert(1, "one");
  Insert(2, "two");
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Statement first, database_->Prepare(kSelect));
    EXPECT_THAT(first.Bind(int64_t{2}).Step(), testing::IsOkAndHolds(true));
    EXPECT_EQ(first.Text(0), "two");
  }
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Statement unbound, database_->Prepare(kSelect));
    EXPECT_THAT(unbound.Step(), testing::IsOkAndHolds(false)) << "what was bound before is gone";
  }
  ANNEAL_ASSERT_OK_AND_ASSIGN(Statement again, database_->Prepare(kSelect));
  EXPECT_THAT(again.Bind(int64_t{1}).Step(), testing::IsOkAndHolds(true));
  EXPECT_EQ(again.Text(0), "one");
}

TEST_F(SqliteTest, TwoOfTheSameTextDoNotDisturbEachOther) {
  Insert(1, "one");
  Insert(2, "two");
  ANNEAL_ASSERT_OK_AND_ASSIGN(Statement outer, database_->Prepare(kSelect));
  EXPECT_THAT(outer.Bind(int64_t{1}).Step(), testing::IsOkAndHolds(true));
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Statement inner, database_->Prepare(kSelect));
    EXPECT_THAT(inner.Bind(int64_t{2}).Step(), testing::IsOkAndHolds(true));
    EXPECT_EQ(inner.Text(0), "two");
  }
  EXPECT_EQ(outer.Text(0), "one");
  EXPECT_THAT(outer.Step(), testing::IsOkAndHolds(true));
  EXPECT_EQ(outer.Text(0), "two");
}

TEST_F(SqliteTest, AFailureDoesNotOutliveItsStatement) {
  Insert(1, "one");
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Statement put,
                                database_->Prepare("INSERT INTO numbers VALUES (?, ?)"));
    EXPECT_THAT(put.Bind(int64_t{1}).Bind("again").Run(),
                StatusIs(absl::StatusCode::kAlreadyExists));
  }
  Insert(2, "two");
  EXPECT_THAT(database_->Prepare("SELECT"), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(SqliteTest, StatementsSurviveTheMoveOfTheirDatabase) {
  Insert(1, "one");
  std::optional<Database> moved;
  ANNEAL_ASSERT_OK_AND_ASSIGN(Statement before, database_->Prepare(kSelect));
  moved.emplace(*std::move(database_));
  EXPECT_THAT(before.Bind(int64_t{1}).Step(), testing::IsOkAndHolds(true));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Statement after, moved->Prepare(kSelect));
  EXPECT_THAT(after.Bind(int64_t{1}).Step(), testing::IsOkAndHolds(true));
}

}  // namespace
}  // namespace anneal
