// The engine around a model that can be worked out by hand: real data files, real kernels, ranks as threads.

#include "worker/trainer/engine/trainer.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"
#include "worker/trainer/engine/cpu_accelerator.h"
#include "worker/trainer/engine/testing/fake_decoder.h"
#include "worker/trainer/engine/testing/small_dataset.h"

namespace anneal::trainer {
namespace {

namespace fs = std::filesystem;
using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::anneal::trainer::testing::FakeDecoder;
using ::anneal::trainer::testing::kFakeVocabulary;
using ::anneal::trainer::testing::MakeSmallRows;
using ::anneal::trainer::testing::RunOnRanks;
using ::anneal::trainer::testing::WriteSmallDataset;
using ::testing::HasSubstr;

std::string Contents(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Remembers what it was told; asks to finish once `finish_after` steps were reported, if that is not 0.
class FakeHost : public TrainerHost {
 public:
  explicit FakeHost(size_t finish_after = 0) : finish_after_(finish_after) {}
  bool finish_requested() override { return finish_after_ > 0 && steps.size() >= finish_after_; }
  void SetPhase(absl::string_view phase) override { phases.insert(std::string(phase)); }
  void SetRankReport(const protocol::RankReport& report) override { rank_report = report; }
  absl::Status SendReport(const protocol::Report& report) override {
    if (report.step.has_value()) steps.push_back(*report.step);
    if (report.evaluation.has_value()) evaluations.push_back(*report.evaluation);
    if (report.result.has_value()) result = report.result;
    return absl::OkStatus();
  }

  std::set<std::string> phases;
  std::vector<protocol::StepReport> steps;
  std::vector<protocol::EvaluationReport> evaluations;
  std::optional<protocol::ResultReport> result;
  protocol::RankReport rank_report;

 private:
  const size_t finish_after_;
};

absl::StatusOr<std::string> ExportBytes(const protocol::TrainTask&, Accelerator&, Decoder&, const FlatBuffers& values,
                                        const std::string& output_dir) {
  fs::create_directory(output_dir + "/model");
  std::ofstream file(output_dir + "/model/values", std::ios::binary);
  for (int unit = 0; unit < values.units(); ++unit) {
    for (const at::Tensor& view : values.views(unit)) {
      file.write(reinterpret_cast<const char*>(view.const_data_ptr()), static_cast<std::streamsize>(view.nbytes()));
    }
  }
  return "model";
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : dir_(fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    WriteSmallDataset(dir_ / "train", MakeSmallRows(50, kFakeVocabulary, 1), kFakeVocabulary);
    WriteSmallDataset(dir_ / "validation", MakeSmallRows(20, kFakeVocabulary, 2), kFakeVocabulary);
    task_.generation = 3;
    task_.train_data = dir_ / "train";
    task_.validation_data = dir_ / "validation";
    task_.resolved_job_json = "{\"a\":1}";
    task_.epochs = 2;
    task_.batch_size = 8;
    task_.learning_rate = 0.05;
    task_.seed = 11;
    task_.microbatch_tokens = 24;
    task_.weight_decay = 0.1;
  }
  ~TrainerTest() override { fs::remove_all(dir_); }

  // Runs the job on `world_size` ranks into dir_/<name>; rank 0's host is hosts_[0].
  absl::Status Run(const std::string& name, int world_size, int64_t bad_step = 0, size_t finish_after = 0) {
    hosts_.clear();
    for (int rank = 0; rank < world_size; ++rank) hosts_.push_back(std::make_unique<FakeHost>(finish_after));
    return RunOnRanks(world_size, [&](Communicator& communicator) {
      const auto accelerator = MakeCpuAccelerator();
      protocol::TrainTask task = task_;
      task.rank = communicator.rank();
      task.world_size = world_size;
      task.output_dir = dir_ / name;
      const LoadDecoder load = [&](const protocol::TrainTask&, Accelerator&) { return std::make_unique<FakeDecoder>(bad_step); };
      return Trainer(task, {*accelerator, communicator, *hosts_[task.rank], Clock::Real(), load, ExportBytes}).Run();
    });
  }

  const fs::path dir_;
  protocol::TrainTask task_;
  std::vector<std::unique_ptr<FakeHost>> hosts_;
};

TEST_F(TrainerTest, GivesTheSameBitsForEveryWorldSize) {
  task_.logical_shards = 4;
  task_.evaluate_every_steps = 5;
  ASSERT_THAT(Run("one", 1), IsOk());
  const FakeHost one = *hosts_[0];
  for (int world_size : {2, 4}) {
    const std::string name = absl::StrCat("world", world_size);
    ASSERT_THAT(Run(name, world_size), IsOk());
    EXPECT_EQ(Contents(dir_ / name / "ledger.jsonl"), Contents(dir_ / "one" / "ledger.jsonl"));
    EXPECT_EQ(Contents(dir_ / name / "model/values"), Contents(dir_ / "one" / "model/values"));
    ASSERT_EQ(hosts_[0]->evaluations.size(), one.evaluations.size());
    for (size_t i = 0; i < one.evaluations.size(); ++i) {
      EXPECT_EQ(hosts_[0]->evaluations[i].loss, one.evaluations[i].loss);
    }
    EXPECT_TRUE(hosts_[1]->steps.empty());  // only rank 0 speaks for the job
    EXPECT_EQ(hosts_[1]->rank_report.step, 14);
  }
}

TEST_F(TrainerTest, MicroBatchesAndFastReductionAgreeToRounding) {
  ASSERT_THAT(Run("one", 1), IsOk());
  const double expected = hosts_[0]->steps.back().train_loss;
  task_.microbatch_tokens = 1000;
  ASSERT_THAT(Run("large", 1), IsOk());
  EXPECT_NEAR(hosts_[0]->steps.back().train_loss, expected, 1e-5);  // fp32 sums in another order, 14 updates
  task_.reduction = "FAST";
  ASSERT_THAT(Run("fast", 2), IsOk());
  EXPECT_NEAR(hosts_[0]->steps.back().train_loss, expected, 1e-5);
}

TEST_F(TrainerTest, LedgerShowsEachRowOncePerEpoch) {
  ASSERT_THAT(Run("out", 2), IsOk());
  std::ifstream ledger(dir_ / "out" / "ledger.jsonl");
  std::vector<std::multiset<int64_t>> rows_of_epoch(2);
  int64_t step = 0;
  for (std::string line; std::getline(ledger, line);) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(line));
    EXPECT_EQ(json["step"], ++step);
    for (const Json& shard : json["rows"]) {
      for (const Json& row : shard) rows_of_epoch[(step - 1) / 7].insert(row.get<int64_t>());
    }
  }
  EXPECT_EQ(step, 14);  // ceil(50 / 8) each
  for (const auto& rows : rows_of_epoch) {
    EXPECT_EQ(rows.size(), 50);
    EXPECT_EQ(std::set<int64_t>(rows.begin(), rows.end()).size(), 50);
  }
}

TEST_F(TrainerTest, LearnsReportsAndPublishes) {
  ASSERT_THAT(Run("out", 2), IsOk());
  const FakeHost& host = *hosts_[0];
  EXPECT_THAT(host.phases, ::testing::UnorderedElementsAre("load", "evaluate", "train", "export"));
  ASSERT_TRUE(host.result.has_value());
  EXPECT_EQ(host.result->primary, "model");
  EXPECT_EQ(host.result->first_loss, host.steps.front().train_loss);
  EXPECT_LT(host.result->last_loss, host.result->first_loss);
  ASSERT_EQ(host.evaluations.size(), 2);  // before and after
  EXPECT_LT(host.evaluations[1].loss, host.evaluations[0].loss);
  EXPECT_EQ(host.evaluations[1].step, 14);
  EXPECT_EQ(host.steps.back().epoch, 2);
  EXPECT_EQ(host.steps.back().total_steps, 14);

  EXPECT_EQ(*Sha256OfFile(dir_ / "out" / "manifest.json"), host.result->manifest_sha256);
  EXPECT_EQ(Contents(dir_ / "out" / "resolved_job.json"), "{\"a\":1}");
  EXPECT_THAT(Contents(dir_ / "out" / "manifest.json"), HasSubstr(R"({"path":"model/values","bytes":132,"sha256":)"));
  EXPECT_FALSE(fs::exists(dir_ / "out.partial-g3"));
}

TEST_F(TrainerTest, StopsAllRanksTogetherWhenToldToFinish) {
  ASSERT_THAT(Run("out", 2, /*bad_step=*/0, /*finish_after=*/4), IsOk());
  EXPECT_EQ(hosts_[0]->steps.size(), 5);  // rank 0 alone was told, after step 4; step 5 carried the word
  EXPECT_EQ(hosts_[0]->evaluations.back().step, 5);
  EXPECT_TRUE(fs::exists(dir_ / "out" / "model/values"));
}

TEST_F(TrainerTest, StopsBeforeAnUpdateThatIsNotFinite) {
  EXPECT_THAT(Run("out", 2, /*bad_step=*/3), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("step 3")));
  EXPECT_EQ(hosts_[0]->steps.size(), 2);
  EXPECT_FALSE(fs::exists(dir_ / "out"));
  EXPECT_FALSE(fs::exists(dir_ / "out.partial-g3"));
}

TEST_F(TrainerTest, RefusesWhatDoesNotFitTogether) {
  EXPECT_THAT(Run("out", 8), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("world_size 8")));
  task_.logical_shards = 6;
  EXPECT_THAT(Run("out", 2), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("logical_shards 6")));
  task_.logical_shards = 4;
  WriteSmallDataset(dir_ / "train", MakeSmallRows(5, kFakeVocabulary, 1), 2 * kFakeVocabulary);
  EXPECT_THAT(Run("out", 1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prepared for another model")));
}

}  // namespace
}  // namespace anneal::trainer
