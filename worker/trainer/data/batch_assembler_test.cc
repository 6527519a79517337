#include "worker/trainer/data/batch_assembler.h"

#include <set>

#include "common/base/status_matchers.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Row i has lengths[i] tokens 100 i, 100 i + 1, ...; the last `supervised` of them count for the
// loss. Remembers what was read.
class Rows {
 public:
  explicit Rows(const std::vector<int>& lengths, int supervised = 1) : rows_(lengths.size()) {
    for (size_t i = 0; i < lengths.size(); ++i) {
      for (int p = 0; p < lengths[i]; ++p) {
        rows_[i].token_ids.push_back(static_cast<int32_t>(i * 100 + p));
        rows_[i].loss_weight.push_back(p >= lengths[i] - supervised);
      }
    }
  }

  ExampleReader Reader() {
    return [this](int64_t row) -> absl::StatusOr<PreparedExample> {
      if (row >= static_cast<int64_t>(rows_.size()))
        return absl::InvalidArgumentError("no such row");
      read_.insert(row);
      return PreparedExample{.token_ids = rows_[row].token_ids,
                             .loss_weight = rows_[row].loss_weight};
    };
  }
  const std::set<int64_t>& read() const { return read_; }

 private:
  struct Row {
    std::vector<int32_t> token_ids;
    std::vector<uint8_t> loss_weight;
  };
  std::vector<Row> rows_;
  std::set<int64_t> read_;
};

TEST(BatchAssemblerTest, PacksRowsInOrderUpToTheLimit) {
  Rows rows({3, 4, 2, 9, 1});
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto batches,
                              BatchAssembler(rows.Reader(), 7).Assemble(12, 3, {0, 1, 2, 3, 4}));
  ASSERT_EQ(batches.size(), 4);
  EXPECT_THAT(batches[0].source_rows, ElementsAre(0, 1));
  EXPECT_THAT(batches[1].source_rows, ElementsAre(2));
  EXPECT_THAT(batches[2].source_rows, ElementsAre(3));  // longer than the limit: alone
  EXPECT_THAT(batches[3].source_rows, ElementsAre(4));
  EXPECT_EQ(batches[2].step, 12);
  EXPECT_EQ(batches[2].logical_shard, 3);
  EXPECT_EQ(batches[2].index, 2);
}

TEST(BatchAssemblerTest, KnowsPositionsAndTargets) {
  Rows rows({3, 4}, /*supervised=*/2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto batches,
                              BatchAssembler(rows.Reader(), 100).Assemble(1, 0, {1, 0}));
  ASSERT_EQ(batches.size(), 1);
  EXPECT_THAT(batches[0].row_starts, ElementsAre(0, 4, 7));
  EXPECT_THAT(batches[0].token_ids, ElementsAre(100, 101, 102, 103, 0, 1, 2));
  EXPECT_THAT(batches[0].positions, ElementsAre(0, 1, 2, 3, 0, 1, 2));
  EXPECT_THAT(batches[0].supervised_positions, ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(batches[0].targets, ElementsAre(102, 103, 1, 2));
  EXPECT_THAT(batches[0].supervised_rows, ElementsAre(0, 0, 1, 1));
}

TEST(BatchAssemblerTest, AnEmptyShardHasNoMicroBatches) {
  Rows rows({2});
  EXPECT_THAT(BatchAssembler(rows.Reader(), 4).Assemble(1, 0, {}),
              ::anneal::testing::IsOkAndHolds(IsEmpty()));
}

TEST(BatchAssemblerTest, ReadsOnlyItsRowsAndPassesErrorsOn) {
  Rows rows({2, 2, 2, 2});
  const BatchAssembler assembler(rows.Reader(), 4);
  ANNEAL_EXPECT_OK(assembler.Assemble(1, 0, {1, 3}));
  EXPECT_THAT(rows.read(), ElementsAre(1, 3));
  EXPECT_THAT(assembler.Assemble(1, 0, {0, 4}), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace anneal::trainer
