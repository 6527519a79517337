// The engine around a model that can be worked out by hand: real data files, real kernels, ranks as
// threads.

#include "worker/trainer/engine/trainer.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/storage/testing/faulty_file_system.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"
#include "worker/trainer/engine/cpu_accelerator.h"
#include "worker/trainer/engine/testing/fake_decoder.h"
#include "worker/trainer/engine/testing/small_dataset.h"

namespace anneal::trainer {
namespace {

namespace fs = std::filesystem;
using ::anneal::protocol::StopMode;
using ::anneal::testing::DiskFault;
using ::anneal::testing::FaultyFileSystem;
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

constexpr const char* kShardings[] = {"NONE", "OPTIMIZER", "GRADIENTS", "FULL"};

// Remembers what it was told; asks to leave by `mode` once `stop_after` steps were reported, if
// that is not 0.
class FakeHost : public TrainerHost {
 public:
  explicit FakeHost(StopMode mode, size_t stop_after) : mode_(mode), stop_after_(stop_after) {}
  StopMode stop_requested() override {
    return stop_after_ > 0 && steps.size() >= stop_after_ ? mode_ : StopMode::kNone;
  }
  void SetPhase(absl::string_view phase) override { phases.insert(std::string(phase)); }
  void SetRankReport(const protocol::RankReport& report) override { rank_report = report; }
  absl::Status SendReport(const protocol::Report& report) override {
    if (report.step.has_value()) steps.push_back(*report.step);
    if (report.evaluation.has_value()) evaluations.push_back(*report.evaluation);
    if (report.result.has_value()) result = report.result;
    if (report.checkpoint.has_value()) checkpoints.push_back(*report.checkpoint);
    if (report.checkpoint_failed.has_value())
      failed_checkpoints.push_back(*report.checkpoint_failed);
    if (report.resumed.has_value()) resumed = report.resumed;
    return absl::OkStatus();
  }

  std::set<std::string> phases;
  std::vector<protocol::StepReport> steps;
  std::vector<protocol::EvaluationReport> evaluations;
  std::optional<protocol::ResultReport> result;
  std::vector<protocol::CheckpointReport> checkpoints;
  std::vector<protocol::CheckpointFailedReport> failed_checkpoints;
  std::optional<protocol::ResumedReport> resumed;
  protocol::RankReport rank_report;

 private:
  const StopMode mode_;
  const size_t stop_after_;
};

absl::StatusOr<Exported> ExportBytes(const protocol::TrainTask& task, Accelerator&, Communicator&,
                                     Decoder& decoder, ShardedValues& values,
                                     const std::string& output_dir) {
  std::string bytes;
  for (int unit = 0; unit < static_cast<int>(decoder.units().size()); ++unit) {
    ANNEAL_ASSIGN_OR_RETURN(const UnitBuffer masters, values.GatherMasters(unit));
    for (const at::Tensor& view : masters.views) {
      bytes.append(static_cast<const char*>(view.const_data_ptr()), view.nbytes());
    }
  }
  if (task.rank == 0) {
    fs::create_directory(output_dir + "/model");
    std::ofstream(output_dir + "/model/values", std::ios::binary) << bytes;
  }
  return Exported{.primary = "model"};
}

// What happens to a run.
struct Course {
  int64_t bad_step = 0;  // FakeDecoder's
  StopMode stop = StopMode::kFinish;
  size_t stop_after = 0;
};

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest()
      : dir_(fs::path(::testing::TempDir()) /
             ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
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
  absl::Status Run(const std::string& name, int world_size, const Course& course = {}) {
    hosts_.clear();
    for (int rank = 0; rank < world_size; ++rank) {
      hosts_.push_back(std::make_unique<FakeHost>(course.stop, course.stop_after));
    }
    return RunOnRanks(world_size, [&](Communicator& communicator) {
      const auto accelerator = MakeCpuAccelerator();
      Whereabouts whereabouts(Clock::Real());
      protocol::TrainTask task = task_;
      task.rank = communicator.rank();
      task.world_size = world_size;
      task.output_dir = dir_ / name;
      const LoadDecoder load = [&](const protocol::TrainTask&, Accelerator&) {
        return std::make_unique<FakeDecoder>(course.bad_step);
      };
      return Trainer(task, {dir_, files_, *accelerator, communicator, *hosts_[task.rank],
                            whereabouts, Clock::Real(), load, ExportBytes})
          .Run()
          .status();
    });
  }

  const fs::path dir_;
  protocol::TrainTask task_;
  FaultyFileSystem files_{FileSystem::Posix()};
  std::vector<std::unique_ptr<FakeHost>> hosts_;
};

TEST_F(TrainerTest, GivesTheSameBitsForEveryWorldSizeAndSharding) {
  task_.logical_shards = 4;
  task_.evaluate_every_steps = 5;
  ASSERT_THAT(Run("one", 1), IsOk());
  const FakeHost one = *hosts_[0];
  for (const char* sharding : kShardings) {
    task_.sharding = sharding;
    for (int world_size : {2, 4}) {
      const std::string name = absl::StrCat(sharding, world_size);
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
}

TEST_F(TrainerTest, MicroBatchesAndFastReductionAgreeToRounding) {
  ASSERT_THAT(Run("one", 1), IsOk());
  const double expected = hosts_[0]->steps.back().train_loss;
  task_.microbatch_tokens = 1000;
  ASSERT_THAT(Run("large", 1), IsOk());
  EXPECT_NEAR(hosts_[0]->steps.back().train_loss, expected,
              1e-5);  // fp32 sums in another order, 14 updates
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
  EXPECT_THAT(Contents(dir_ / "out" / "manifest.json"),
              HasSubstr(R"({"path":"model/values","bytes":132,"sha256":)"));
}

TEST_F(TrainerTest, StopsAllRanksTogetherWhenToldToFinish) {
  ASSERT_THAT(Run("out", 2, {.stop_after = 4}), IsOk());
  EXPECT_EQ(hosts_[0]->steps.size(),
            5);  // rank 0 alone was told, after step 4; step 5 carried the word
  EXPECT_EQ(hosts_[0]->evaluations.back().step, 5);
  EXPECT_TRUE(fs::exists(dir_ / "out" / "model/values"));
}

TEST_F(TrainerTest, StopsBeforeAnUpdateThatIsNotFinite) {
  EXPECT_THAT(Run("out", 2, {.bad_step = 3}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("step 3")));
  EXPECT_EQ(hosts_[0]->steps.size(), 2);
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

// Checkpoints: every run below is compared with one that nothing disturbed.
class CheckpointTest : public TrainerTest {
 protected:
  CheckpointTest() {
    task_.job = "01hf7yat00abcdefghjkmnpqrs";
    task_.evaluate_every_steps = 3;
    ANNEAL_CHECK_OK(Run("undisturbed", 1));
    task_.checkpoint_root = "checkpoints";
    task_.checkpoint_seconds = 0;
  }

  // Pauses after `steps` and returns the checkpoint.
  protocol::CheckpointReference PauseAfter(size_t steps, int world_size) {
    ANNEAL_CHECK_OK(Run("paused", world_size, {.stop = StopMode::kPause, .stop_after = steps - 1}));
    EXPECT_FALSE(fs::exists(dir_ / "paused"));
    EXPECT_EQ(hosts_[0]->checkpoints.size(), 1);
    return ReferenceTo(hosts_[0]->checkpoints.at(0));
  }
  static protocol::CheckpointReference ReferenceTo(const protocol::CheckpointReport& report) {
    return {.step = report.step, .dir = report.dir, .manifest_sha256 = report.manifest_sha256};
  }
  // Runs to the end from the newest of `from` that is whole.
  void ExpectSameEnd(const std::vector<protocol::CheckpointReference>& from, int world_size) {
    ++task_.generation;
    task_.resume_from = from;
    ASSERT_THAT(Run("resumed", world_size), IsOk());
    for (const char* file : {"ledger.jsonl", "model/values"}) {
      EXPECT_EQ(Contents(dir_ / "resumed" / file), Contents(dir_ / "undisturbed" / file)) << file;
    }
    const auto rows = [](const std::string& csv) {
      return std::count(csv.begin(), csv.end(), '\n');
    };
    EXPECT_EQ(rows(Contents(dir_ / "resumed/metrics.csv")),
              rows(Contents(dir_ / "undisturbed/metrics.csv")));
    task_.resume_from.clear();
  }
  fs::path PathOf(const protocol::CheckpointReference& checkpoint) const {
    return dir_ / checkpoint.dir;
  }
};

TEST_F(CheckpointTest, PauseAndResumeOnMoreOrFewerRanksGiveTheSameBits) {
  for (const auto& [before, after] : {std::pair(1, 2), std::pair(4, 1), std::pair(2, 4)}) {
    const protocol::CheckpointReference checkpoint = PauseAfter(5, before);
    EXPECT_EQ(checkpoint.step, 5);
    EXPECT_EQ(checkpoint.dir, absl::StrCat("checkpoints/5-g", task_.generation));
    EXPECT_EQ(hosts_[0]->checkpoints[0].validation_loss, hosts_[0]->evaluations.back().loss);
    ExpectSameEnd({checkpoint}, after);
    ASSERT_TRUE(hosts_[0]->resumed.has_value());
    EXPECT_EQ(hosts_[0]->resumed->step, 5);
    EXPECT_EQ(hosts_[0]->resumed->fingerprint_change, "");
    EXPECT_EQ(hosts_[0]->steps.front().step, 6);
  }
}

TEST_F(CheckpointTest, OneOfAnyShardingLoadsInAnother) {
  for (const char* before : kShardings) {
    task_.sharding = before;
    ++task_.generation;
    const protocol::CheckpointReference checkpoint = PauseAfter(5, 2);
    for (const char* after : kShardings) {
      task_.sharding = after;
      ExpectSameEnd({checkpoint}, 4);
    }
  }
}

TEST_F(CheckpointTest, FilesDoNotDependOnRanksOrSharding) {
  const protocol::CheckpointReference one = PauseAfter(4, 1);
  for (const char* sharding : kShardings) {
    task_.sharding = sharding;
    ++task_.generation;
    const protocol::CheckpointReference four = PauseAfter(4, 4);
    ASSERT_NE(one.dir, four.dir);
    int state_files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(PathOf(one))) {
      if (entry.path().extension() != ".safetensors") continue;
      EXPECT_EQ(Contents(entry.path()), Contents(PathOf(four) / entry.path().filename()))
          << entry.path();
      ++state_files;
    }
    EXPECT_EQ(state_files, task_.logical_shards);
  }
}

TEST_F(CheckpointTest, EachOneTakenWhileTrainingGoesOnCanBeResumedFrom) {
  task_.checkpoint_seconds = 1e-6;
  ASSERT_THAT(Run("out", 2), IsOk());
  EXPECT_EQ(Contents(dir_ / "out/ledger.jsonl"), Contents(dir_ / "undisturbed/ledger.jsonl"));
  EXPECT_GT(hosts_[0]->rank_report.checkpoint_stall_seconds, 0);
  const std::vector<protocol::CheckpointReport> reports = hosts_[0]->checkpoints;
  ASSERT_FALSE(reports.empty());
  EXPECT_GT(reports[0].bytes, 0);
  EXPECT_GT(reports[0].stall_seconds, 0);
  task_.checkpoint_root.clear();
  for (const protocol::CheckpointReport& report : reports) ExpectSameEnd({ReferenceTo(report)}, 1);
}

TEST_F(CheckpointTest, DamagedOnesAreNamedAndTheOneBeforeIsUsed) {
  const protocol::CheckpointReference good = PauseAfter(2, 2);
  const auto damage = [&](const std::string& file,
                          const std::function<void(const fs::path&)>& how) {
    task_.resume_from = {good};
    ++task_.generation;
    const protocol::CheckpointReference bad = PauseAfter(2, 1);  // two more steps
    EXPECT_EQ(bad.step, 4);
    how(PathOf(bad) / file);
    ExpectSameEnd({bad, good}, 2);
    ASSERT_EQ(hosts_[0]->resumed->damaged.size(), 1) << file;
    EXPECT_EQ(hosts_[0]->resumed->damaged[0].dir, bad.dir);
    EXPECT_THAT(hosts_[0]->resumed->damaged[0].why, HasSubstr(file));
    EXPECT_EQ(hosts_[0]->resumed->dir, good.dir);
    EXPECT_EQ(hosts_[0]->steps.front().step, 3);
  };
  const auto flip_last_byte = [](const fs::path& path) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-2, std::ios::end);
    const char byte = static_cast<char>(file.peek());
    file.seekp(-2, std::ios::end);
    file.put(static_cast<char>(byte ^ 1));
  };
  damage("state-00000-of-00004.safetensors", flip_last_byte);
  damage("ledger.jsonl", flip_last_byte);
  damage("history.jsonl",
         [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 2); });
  damage("manifest.json", [](const fs::path& path) { fs::remove(path); });
}

TEST_F(CheckpointTest, WithoutAnyThatIsWholeItBeginsAnew) {
  const protocol::CheckpointReference checkpoint = PauseAfter(2, 1);
  fs::remove_all(PathOf(checkpoint));
  ExpectSameEnd({checkpoint}, 1);
  EXPECT_EQ(hosts_[0]->resumed->step, 0);
  EXPECT_EQ(hosts_[0]->resumed->damaged.size(), 1);
}

TEST_F(CheckpointTest, AFaultOfTheDiskGivesUpThatCheckpointAlone) {
  const protocol::CheckpointReference before = PauseAfter(2, 2);
  for (const DiskFault fault : {DiskFault::kFull, DiskFault::kSyncFails}) {
    files_.SetFault(fault);
    task_.checkpoint_seconds = 1e-6;
    ExpectSameEnd({before}, 2);
    EXPECT_TRUE(hosts_[0]->checkpoints.empty());
    ASSERT_FALSE(hosts_[0]->failed_checkpoints.empty());
    EXPECT_EQ(hosts_[0]->failed_checkpoints[0].step, 3);
    EXPECT_THAT(hosts_[0]->failed_checkpoints[0].why, HasSubstr("injected"));
    EXPECT_TRUE(fs::is_empty(dir_ / "checkpoints/tmp"));
    files_.SetFault(DiskFault::kNone);
    task_.checkpoint_seconds = 0;
    ExpectSameEnd({before}, 1);
    EXPECT_EQ(hosts_[0]->resumed->step, 2);
  }
}

TEST_F(CheckpointTest, StorageThatDoesNotAnswerIsNotTakenForDamage) {
  const protocol::CheckpointReference checkpoint = PauseAfter(2, 1);
  fs::remove(PathOf(checkpoint) / "manifest.json");
  fs::create_directory(PathOf(checkpoint) / "manifest.json");  // cannot be read, but is there
  task_.resume_from = {checkpoint};
  EXPECT_FALSE(Run("resumed", 2).ok());
  EXPECT_FALSE(hosts_[0]->resumed.has_value());
}

TEST_F(TrainerTest, RefusesWhatDoesNotFitTogether) {
  EXPECT_THAT(Run("out", 8),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("world_size 8")));
  task_.logical_shards = 6;
  EXPECT_THAT(Run("out", 2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("logical_shards 6")));
  task_.logical_shards = 4;
  task_.sharding = "AUTO";  // resolved before a task is made
  EXPECT_THAT(Run("out", 2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sharding 'AUTO'")));
  task_.sharding = "NONE";
  WriteSmallDataset(dir_ / "train", MakeSmallRows(5, kFakeVocabulary, 1), 2 * kFakeVocabulary);
  EXPECT_THAT(Run("out", 1), StatusIs(absl::StatusCode::kInvalidArgument,
                                      HasSubstr("prepared for another model")));
}

}  // namespace
}  // namespace anneal::trainer
