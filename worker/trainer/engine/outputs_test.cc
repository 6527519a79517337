// What rank 0 leaves behind: the folder of outputs and the record of the run.

#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/base/sha256.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/json.h"
#include "worker/trainer/engine/output_folder.h"
#include "worker/trainer/engine/run_record.h"

namespace anneal::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class OutputFolderTest : public ::testing::Test {
 protected:
  testing::TempDir dir_;
  const fs::path path_ = fs::path(dir_.path()) / "outputs" / "job.partial-g2";
};

TEST_F(OutputFolderTest, IsListedInItsManifest) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto folder, OutputFolder::Create(path_));
  fs::create_directory(path_ / "adapter");
  std::ofstream(path_ / "adapter/weights") << "abc";
  std::ofstream(path_ / "a") << "";
  ANNEAL_ASSERT_OK_AND_ASSIGN(const std::string hash, folder->Seal());
  folder.reset();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Json manifest, ReadJsonFile(path_ / "manifest.json"));
  ASSERT_EQ(manifest["files"].size(), 2);
  EXPECT_EQ(manifest["files"][0]["path"], "a");
  EXPECT_EQ(manifest["files"][1]["path"], "adapter/weights");
  EXPECT_EQ(manifest["files"][1]["bytes"], 3);
  EXPECT_EQ(manifest["files"][1]["sha256"], Sha256Hex("abc"));
  EXPECT_EQ(*Sha256OfFile(path_ / "manifest.json"), hash);
  EXPECT_EQ(std::distance(fs::directory_iterator(path_.parent_path()), {}), 1);
}

TEST_F(OutputFolderTest, LeavesNothingWithoutASeal) {
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto folder, OutputFolder::Create(path_));
    std::ofstream(path_ / "half") << "x";
  }
  EXPECT_TRUE(fs::is_empty(path_.parent_path()));
}

TEST_F(OutputFolderTest, HoldsNothingOfAnEarlierTry) {
  fs::create_directories(path_);
  std::ofstream(path_ / "stale") << "x";
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto folder, OutputFolder::Create(path_));
  ANNEAL_ASSERT_OK(folder->Seal());
  EXPECT_FALSE(fs::exists(path_ / "stale"));
}

TEST(RunRecordTest, WritesStepsWithTheEvaluationsThatFollowThem) {
  RunRecord record;
  record.Add(protocol::EvaluationReport{
      .step = 0, .loss = 3, .exact_match = 0.25, .rows = 4, .seconds = 1});
  record.Add(protocol::StepReport{.step = 1,
                                  .epoch = 0.5,
                                  .train_loss = 0.1,
                                  .learning_rate = 2e-4,
                                  .grad_norm = 1.5,
                                  .tokens = 100,
                                  .supervised_tokens = 10,
                                  .step_seconds = 0.5});
  record.Add(protocol::StepReport{.step = 2,
                                  .epoch = 1,
                                  .train_loss = 0.05,
                                  .learning_rate = 1e-4,
                                  .grad_norm = 1,
                                  .tokens = 50,
                                  .supervised_tokens = 5,
                                  .step_seconds = 0.25});
  record.Add(protocol::EvaluationReport{
      .step = 2, .loss = 2, .exact_match = 0.5, .choice_accuracy = 0.75, .seconds = 2});
  EXPECT_EQ(record.MetricsCsv(),
            "step,epoch,train_loss,learning_rate,grad_norm,tokens,supervised_tokens,step_seconds,"
            "tokens_per_second,"
            "valid_loss,valid_exact_match,valid_choice_accuracy\n"
            "0,0,,,,,,,,3,0.25,\n"
            "1,0.5,0.1,2e-04,1.5,100,10,0.5,200,,,\n"
            "2,1,0.05,1e-04,1,50,5,0.25,200,2,0.5,0.75\n");
  const protocol::ResultReport result = record.Result();
  EXPECT_EQ(result.first_loss, 0.1);
  EXPECT_EQ(result.last_loss, 0.05);
  EXPECT_EQ(result.train_seconds, 0.75);
  EXPECT_EQ(result.evaluation_seconds, 3);
  EXPECT_EQ(result.before->loss, 3);
  EXPECT_EQ(result.after->choice_accuracy, 0.75);
  EXPECT_THAT(record.ReportJson(record.Result()),
              HasSubstr(R"("steps":2,"epochs":1.0,"tokens":150,"supervised_tokens":15)"));
}

}  // namespace
}  // namespace anneal::trainer
