#include "worker/prepare/batch_pipeline.h"

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace anneal::prepare {
namespace {

Batch BatchOf(int64_t row) {
  Batch batch;
  batch.rows.push_back({.row = row});
  return batch;
}

TEST(BatchPipelineTest, HandsBatchesBackInOrderWhoeverIsFirst) {
  absl::Notification second_done;
  // The first batch ends only after the second, so order is not an accident.
  BatchPipeline pipeline(2, [&](Batch& batch) {
    if (batch.rows[0].row == 0) second_done.WaitForNotification();
    batch.rows[0].encoded.token_ids = {static_cast<int32_t>(10 * batch.rows[0].row)};
    if (batch.rows[0].row == 1) second_done.Notify();
  });
  for (int64_t row = 0; row < 20; ++row) pipeline.Submit(BatchOf(row));
  EXPECT_EQ(pipeline.in_flight(), 20u);
  for (int64_t row = 0; row < 20; ++row) {
    const Batch batch = pipeline.TakeOldest();
    EXPECT_EQ(batch.rows[0].row, row);
    EXPECT_EQ(batch.rows[0].encoded.token_ids,
              std::vector<int32_t>{static_cast<int32_t>(10 * row)});
  }
  EXPECT_EQ(pipeline.in_flight(), 0u);
}

TEST(BatchPipelineTest, MayBeLeftWithBatchesInFlight) {
  absl::Notification begun, owner_leaves;
  auto pipeline = std::make_unique<BatchPipeline>(1, [&](Batch& batch) {
    if (batch.rows[0].row > 0) return;
    begun.Notify();
    owner_leaves.WaitForNotification();
  });
  for (int64_t row = 0; row < 5; ++row) pipeline->Submit(BatchOf(row));
  begun.WaitForNotification();
  Thread releaser("releaser", [&] { owner_leaves.Notify(); });
  pipeline.reset();  // returns, although nobody took anything
  EXPECT_TRUE(owner_leaves.HasBeenNotified());
}

}  // namespace
}  // namespace anneal::prepare
