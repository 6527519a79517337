#include "worker/trainer/engine/evaluator.h"

#include <ATen/ops/zeros.h>

#include <filesystem>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"
#include "worker/trainer/engine/cpu_accelerator.h"
#include "worker/trainer/engine/testing/fake_decoder.h"
#include "worker/trainer/engine/testing/small_dataset.h"

namespace anneal::trainer {
namespace {

using ::anneal::trainer::testing::FakeDecoder;
using ::anneal::trainer::testing::kFakeVocabulary;
using ::anneal::trainer::testing::MakeSmallRows;
using ::anneal::trainer::testing::RunOnRanks;
using ::anneal::trainer::testing::SmallRow;
using ::anneal::trainer::testing::WriteSmallDataset;
using ::testing::ElementsAre;

std::vector<PreparedExample> Views(const std::vector<SmallRow>& rows) {
  std::vector<PreparedExample> views;
  for (const SmallRow& row : rows)
    views.push_back({.token_ids = row.token_ids, .loss_weight = row.loss_weight});
  return views;
}

SmallRow Answer(std::vector<int32_t> answer) {
  SmallRow row{.token_ids = {1, 2}, .loss_weight = {0, 0}};
  for (int32_t token : answer) {
    row.token_ids.push_back(token);
    row.loss_weight.push_back(1);
  }
  row.token_ids.push_back(3);
  row.loss_weight.push_back(0);
  return row;
}

TEST(FindChoiceTaskTest, FindsAnswersThatDifferInTheirFirstToken) {
  const std::vector<SmallRow> rows = {Answer({9, 4}), Answer({7}), Answer({9, 4})};
  const auto task = FindChoiceTask(Views(rows));
  ASSERT_TRUE(task.has_value());
  EXPECT_THAT(task->first_tokens, ElementsAre(7, 9));
  EXPECT_THAT(task->gold, ElementsAre(1, 0, 1));
}

TEST(FindChoiceTaskTest, IsNoChoiceIf) {
  // ... two answers begin alike,
  EXPECT_FALSE(FindChoiceTask(Views({Answer({9, 4}), Answer({9, 5})})).has_value());
  // ... there is nothing to choose from,
  EXPECT_FALSE(FindChoiceTask(Views({Answer({9}), Answer({9})})).has_value());
  // ... an answer is in two pieces,
  SmallRow broken = Answer({9, 4, 5});
  broken.loss_weight[3] = 0;
  EXPECT_FALSE(FindChoiceTask(Views({broken, Answer({7})})).has_value());
  // ... or there are too many.
  std::vector<SmallRow> many;
  for (int32_t i = 0; i < 16; ++i) many.push_back(Answer({10 + i}));
  EXPECT_TRUE(FindChoiceTask(Views(many)).has_value());
  many.push_back(Answer({26}));
  EXPECT_FALSE(FindChoiceTask(Views(many)).has_value());
}

class EvaluatorTest : public ::testing::Test {
 protected:
  EvaluatorTest() : path_(::testing::TempDir() + "evaluator_test.safetensors") {
    for (int unit : {1, 2}) {
      at::Tensor& values = unit == 1 ? w_ : b_;
      ANNEAL_CHECK_OK(decoder_.InitialValues(unit, 0, std::span(&values, 1)));
      decoder_.Bind(unit, std::span(&values, 1));
    }
  }
  ~EvaluatorTest() override { std::filesystem::remove(path_); }

  protocol::EvaluationReport Evaluate(const std::vector<SmallRow>& rows, int world_size,
                                      int64_t max_rows = 256, int64_t microbatch_tokens = 25) {
    WriteSmallDataset(path_, rows, kFakeVocabulary);
    std::vector<protocol::EvaluationReport> reports(world_size);
    ANNEAL_EXPECT_OK(RunOnRanks(world_size, [&](Communicator& communicator) -> absl::Status {
      const auto accelerator = MakeCpuAccelerator();
      ANNEAL_ASSIGN_OR_RETURN(const auto dataset, PreparedDataset::Open(path_));
      const FlatLayout layout(decoder_.units(), world_size, 64),
          frozen_layout(decoder_.frozen_units(), world_size, 64);
      ShardedValues values(layout, frozen_layout, {}, decoder_, communicator);
      ANNEAL_ASSIGN_OR_RETURN(
          const auto evaluator,
          Evaluator::Create(*dataset, decoder_, values, communicator, *accelerator,
                            {.max_rows = max_rows, .microbatch_tokens = microbatch_tokens}));
      ANNEAL_ASSIGN_OR_RETURN(reports[communicator.rank()], evaluator->Run(7, [] {}));
      return absl::OkStatus();
    }));
    for (const protocol::EvaluationReport& report : reports) {
      EXPECT_EQ(ToJson(report), ToJson(reports[0]));
    }
    return reports[0];
  }

  const std::string path_;
  FakeDecoder decoder_;
  at::Tensor w_ = at::zeros({kFakeVocabulary}), b_ = at::zeros({1});
};

TEST_F(EvaluatorTest, MeasuresByHand) {
  w_[7] = 0.9;   // logit 1.0: loss 0, correct
  w_[9] = 0.3;   // logit 0.4: loss 0.18, not correct
  w_[4] = 0.65;  // logit 0.75: loss 0.03125, correct
  const auto report = Evaluate({Answer({9, 4}), Answer({7}), Answer({7})}, 1);
  EXPECT_EQ(report.step, 7);
  EXPECT_EQ(report.rows, 3);
  EXPECT_NEAR(report.loss, (0.18 + 0.03125) / 4, 1e-7);  // fp32 losses
  EXPECT_DOUBLE_EQ(report.exact_match, 2.0 / 3);
  ASSERT_TRUE(report.choice_accuracy.has_value());
  EXPECT_DOUBLE_EQ(*report.choice_accuracy, 2.0 / 3);  // always answers 7
}

TEST_F(EvaluatorTest, GivesTheSameBitsForEveryWorldSize) {
  const auto rows = MakeSmallRows(37, kFakeVocabulary, 5);
  const auto one = Evaluate(rows, 1);
  EXPECT_FALSE(one.choice_accuracy.has_value());
  EXPECT_GT(one.loss, 0);
  for (int world_size : {2, 4}) EXPECT_EQ(ToJson(Evaluate(rows, world_size)), ToJson(one));
}

TEST_F(EvaluatorTest, SpreadsALimitedNumberOfRows) {
  std::vector<SmallRow> rows;
  for (int i = 0; i < 10; ++i) rows.push_back(Answer({i < 5 ? 9 : 7}));
  w_[7] = 5;
  const auto report = Evaluate(rows, 2, /*max_rows=*/4);
  EXPECT_EQ(report.rows, 4);
  EXPECT_DOUBLE_EQ(*report.choice_accuracy, 0.5);
}

}  // namespace
}  // namespace anneal::trainer
