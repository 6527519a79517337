#include "worker/trainer/data/batch_assembler.h"

#include "gmock/gmock.h"
#include "worker/trainer/data/testing/fake_example_source.h"

namespace anneal::trainer {
namespace {

using ::anneal::trainer::testing::FakeExampleSource;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(BatchAssemblerTest, PacksRowsInOrderUpToTheLimit) {
  const auto source = FakeExampleSource::WithLengths({3, 4, 2, 9, 1});
  const auto batches = BatchAssembler(source, 7).Assemble(12, 3, {0, 1, 2, 3, 4});
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
  const auto source = FakeExampleSource::WithLengths({3, 4}, /*supervised=*/2);
  const auto batches = BatchAssembler(source, 100).Assemble(1, 0, {1, 0});
  ASSERT_EQ(batches.size(), 1);
  EXPECT_THAT(batches[0].row_starts, ElementsAre(0, 4, 7));
  EXPECT_THAT(batches[0].token_ids, ElementsAre(100, 101, 102, 103, 0, 1, 2));
  EXPECT_THAT(batches[0].positions, ElementsAre(0, 1, 2, 3, 0, 1, 2));
  EXPECT_THAT(batches[0].supervised_positions, ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(batches[0].targets, ElementsAre(102, 103, 1, 2));
  EXPECT_THAT(batches[0].supervised_rows, ElementsAre(0, 0, 1, 1));
}

TEST(BatchAssemblerTest, NeverSupervisesAFirstToken) {
  const auto source = FakeExampleSource::WithLengths({2, 2}, /*supervised=*/2);
  const auto batches = BatchAssembler(source, 100).Assemble(1, 0, {0, 1});
  EXPECT_THAT(batches[0].supervised_positions, ElementsAre(0, 2));
  EXPECT_THAT(batches[0].targets, ElementsAre(1, 101));
}

TEST(BatchAssemblerTest, AnEmptyShardHasNoMicroBatches) {
  const auto source = FakeExampleSource::WithLengths({2});
  EXPECT_THAT(BatchAssembler(source, 4).Assemble(1, 0, {}), IsEmpty());
}

TEST(BatchAssemblerTest, ReadsOnlyItsRows) {
  const auto source = FakeExampleSource::WithLengths({2, 2, 2, 2});
  BatchAssembler(source, 4).Assemble(1, 0, {1, 3});
  EXPECT_THAT(source.read(), ElementsAre(1, 3));
}

}  // namespace
}  // namespace anneal::trainer
