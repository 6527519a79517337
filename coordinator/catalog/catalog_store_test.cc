#include "coordinator/catalog/catalog_store.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/catalog/resource_store.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class CatalogStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { ANNEAL_ASSERT_OK_AND_ASSIGN(store_, CatalogStore::Open(dir_)); }

  static std::shared_ptr<internal::JobRecord> Job(const std::string& id,
                                                  v1::JobState state = v1::JOB_STATE_PENDING) {
    auto record = std::make_shared<internal::JobRecord>();
    record->set_id(id);
    record->mutable_job()->set_project("p");
    record->mutable_job()->set_state(state);
    record->mutable_inputs()->add_resources("files/f");
    return record;
  }
  static std::pair<std::string, v1::JobEvent> Event(const std::string& job, int64_t sequence) {
    v1::JobEvent event;
    event.set_sequence(sequence);
    return {job, event};
  }
  static v1::StepMetrics StepOf(int64_t step, int64_t generation, double loss) {
    v1::StepMetrics metrics;
    metrics.set_step(step);
    metrics.set_generation(generation);
    metrics.set_train_loss(loss);
    metrics.set_tokens(100);
    metrics.set_supervised_tokens(10);
    return metrics;
  }

  const testing::TempDir temp_;
  const std::string dir_ = temp_.path();
  std::unique_ptr<CatalogStore> store_;
};

TEST_F(CatalogStoreTest, EachStartIsANewEpoch) {
  const absl::Time now = absl::FromUnixMicros(1'800'000'000'000'000);
  ANNEAL_ASSERT_OK_AND_ASSIGN(int64_t first, store_->NextEpoch(now));
  EXPECT_EQ(first, 1'800'000'000'000'000);
  // Also when the clock has been set back.
  ANNEAL_ASSERT_OK_AND_ASSIGN(store_, CatalogStore::Open(dir_));
  EXPECT_THAT(store_->NextEpoch(now - absl::Hours(1)), IsOkAndHolds(first + 1));
  EXPECT_THAT(store_->NextEpoch(now + absl::Seconds(1)), IsOkAndHolds(first + 1'000'000));
}

TEST_F(CatalogStoreTest, EpochsGoOnGrowingAfterARestore) {
  const absl::Time now = absl::FromUnixMicros(1'800'000'000'000'000);
  ANNEAL_ASSERT_OK(store_->NextEpoch(now));
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Database live,
                                Database::Open(dir_ + "/catalog.db", Database::Synchronous::kFull));
    ANNEAL_ASSERT_OK(live.Execute(absl::StrCat("VACUUM INTO '", dir_, "/backup.db'")));
  }
  ANNEAL_ASSERT_OK(store_->NextEpoch(now + absl::Seconds(1)));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const int64_t last, store_->NextEpoch(now + absl::Seconds(2)));
  store_.reset();
  for (const char* file : {"catalog.db", "catalog.db-wal", "catalog.db-shm"})
    std::filesystem::remove(dir_ + "/" + file);
  std::filesystem::rename(dir_ + "/backup.db", dir_ + "/catalog.db");
  ANNEAL_ASSERT_OK_AND_ASSIGN(store_, CatalogStore::Open(dir_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const int64_t restored, store_->NextEpoch(now + absl::Seconds(3)));
  EXPECT_GT(restored, last);
}

TEST_F(CatalogStoreTest, ATurnIsThereWhollyOrNotAtAll) {
  ANNEAL_ASSERT_OK(store_->Commit({{Job("a")}, {Event("a", 1)}, {}, {}}));
  // The second event repeats a sequence, so nothing of this turn may stay.
  EXPECT_THAT(
      store_->Commit(
          {{Job("b"), Job("a", v1::JOB_STATE_FAILED)}, {Event("b", 1), Event("a", 1)}, {}, {}}),
      StatusIs(absl::StatusCode::kAlreadyExists));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto jobs, store_->LoadJobs());
  ASSERT_THAT(jobs, SizeIs(1));
  EXPECT_EQ(jobs[0].job().state(), v1::JOB_STATE_PENDING);
}

TEST_F(CatalogStoreTest, ACommitSurvivesTheLossOfTheProcessAndTornBytesAfterIt) {
  ANNEAL_ASSERT_OK(store_->Commit({{Job("a")}, {Event("a", 1)}, {}, {}}));
  ANNEAL_ASSERT_OK(store_->Commit({{Job("b")}, {Event("b", 1)}, {}, {}}));
  // What kill -9 leaves: the files as they are while the store is open, with the commits still in
  // the log beside the file; and, as a crash in the middle of a third commit would, half a frame at
  // the log's end.
  const std::string crashed = dir_ + "/crashed";
  std::filesystem::create_directory(crashed);
  std::filesystem::copy(dir_ + "/catalog.db", crashed + "/catalog.db");
  std::filesystem::copy(dir_ + "/catalog.db-wal", crashed + "/catalog.db-wal");
  const auto intact = std::filesystem::file_size(crashed + "/catalog.db-wal");
  ASSERT_GT(intact, 0u);
  std::ofstream(crashed + "/catalog.db-wal", std::ios::app | std::ios::binary)
      << std::string(1000, '\x5a');
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto reopened, CatalogStore::Open(crashed));
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto jobs, reopened->LoadJobs());
    EXPECT_THAT(jobs, SizeIs(2));
  }

  // A log cut inside its last commit loses that commit only, and wholly.
  std::filesystem::copy(dir_ + "/catalog.db", crashed + "/catalog.db",
                        std::filesystem::copy_options::overwrite_existing);
  std::filesystem::copy(dir_ + "/catalog.db-wal", crashed + "/catalog.db-wal",
                        std::filesystem::copy_options::overwrite_existing);
  std::filesystem::remove(crashed + "/catalog.db-shm");
  std::filesystem::resize_file(crashed + "/catalog.db-wal", intact - 100);
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto reopened, CatalogStore::Open(crashed));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto jobs, reopened->LoadJobs());
  ASSERT_THAT(jobs, SizeIs(1));
  EXPECT_EQ(jobs[0].id(), "a");
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto history, JobHistory::Open(crashed));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto events, history->ReadEvents("b", 0, 10));
  EXPECT_THAT(events, SizeIs(0));
}

TEST_F(CatalogStoreTest, ALiveJobHoldsItsResourcesAndAFinishedOneDoesNot) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto resources, ResourceStore::Open(dir_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(std::string missing, store_->FindMissingResource(*Job("a")));
  EXPECT_EQ(missing, "files/f");
  store_->Release();
  internal::FileRecord file;
  file.set_id("f");
  file.set_project("p");
  ANNEAL_ASSERT_OK(resources->PutFile(file));
  ANNEAL_ASSERT_OK_AND_ASSIGN(missing, store_->FindMissingResource(*Job("a")));
  EXPECT_EQ(missing, "");

  ANNEAL_ASSERT_OK(store_->Commit({{Job("a")}, {}, {}, {}}));
  EXPECT_THAT(resources->DeleteFile("p", "f"), StatusIs(absl::StatusCode::kFailedPrecondition));
  ANNEAL_ASSERT_OK(store_->Commit({{Job("a", v1::JOB_STATE_SUCCEEDED)}, {}, {}, {}}));
  ANNEAL_EXPECT_OK(resources->DeleteFile("p", "f"));
}

TEST_F(CatalogStoreTest, WhatWasFoundStaysUntilTheJobHoldsIt) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto resources, ResourceStore::Open(dir_));
  internal::FileRecord file;
  file.set_id("f");
  file.set_project("p");
  ANNEAL_ASSERT_OK(resources->PutFile(file));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Database other, OpenCatalogDatabase(dir_));
  ANNEAL_ASSERT_OK(other.Execute("PRAGMA busy_timeout=0"));
  const auto delete_it = [&] { return other.Execute("DELETE FROM files"); };
  for (const bool commits : {true, false}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(std::string missing, store_->FindMissingResource(*Job("a")));
    EXPECT_EQ(missing, "");
    EXPECT_THAT(delete_it(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("locked")));
    if (commits) {
      ANNEAL_ASSERT_OK(store_->Commit({{Job("a")}, {}, {}, {}}));
      EXPECT_THAT(resources->DeleteFile("p", "f"), StatusIs(absl::StatusCode::kFailedPrecondition));
      ANNEAL_ASSERT_OK(store_->Commit({{}, {}, {"a"}, {}}));
    } else {
      store_->Release();
    }
  }
  ANNEAL_EXPECT_OK(delete_it());
  // What is remembered of one turn is not believed in the next.
  ANNEAL_ASSERT_OK_AND_ASSIGN(std::string missing, store_->FindMissingResource(*Job("a")));
  EXPECT_EQ(missing, "files/f");
}

TEST_F(CatalogStoreTest, DeletingAJobTakesItsEvents) {
  ANNEAL_ASSERT_OK(store_->Commit({{Job("a")}, {Event("a", 1), Event("a", 2)}, {}, {}}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto history, JobHistory::Open(dir_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto events, history->ReadEvents("a", 1, 10));
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].sequence(), 2);
  ANNEAL_ASSERT_OK(store_->Commit({{}, {}, {"a"}, {}}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(events, history->ReadEvents("a", 0, 10));
  EXPECT_THAT(events, SizeIs(0));
}

TEST_F(CatalogStoreTest, OfTwoGenerationsWordsOnAStepTheNewerStays) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, StepMetricsWriter::Open(dir_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto history, JobHistory::Open(dir_));
  v1::EvaluationPoint before, after;
  before.set_loss(3);
  after.set_step(2);
  after.set_loss(1);
  writer->AddEvaluation("a", 1, before);
  writer->AddStep("a", StepOf(1, 1, 2.5));
  writer->AddStep("a", StepOf(2, 2, 2.0));
  writer->AddEvaluation("a", 2, after);
  EXPECT_TRUE(writer->has_unflushed());
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto steps, history->ReadSteps("a", 0, 10));
  EXPECT_THAT(steps, SizeIs(0));
  ANNEAL_ASSERT_OK(writer->Flush());
  EXPECT_FALSE(writer->has_unflushed());
  writer->AddStep("a", StepOf(2, 1, 9.0));
  writer->AddStep("a", StepOf(1, 2, 2.25));
  ANNEAL_ASSERT_OK(writer->Flush());

  ANNEAL_ASSERT_OK_AND_ASSIGN(steps, history->ReadSteps("a", 0, 10));
  ASSERT_THAT(steps, SizeIs(2));
  EXPECT_EQ(steps[0].train_loss(), 2.25);
  EXPECT_EQ(steps[1].train_loss(), 2.0);
  EXPECT_EQ(steps[1].evaluation().loss(), 1);
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto first, history->ReadFirstEvaluation("a"));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->loss(), 3);
  ANNEAL_ASSERT_OK_AND_ASSIGN(StepMetricsWriter::Totals totals, writer->ReadTotals("a"));
  EXPECT_EQ(totals.last_step.step(), 2);
  EXPECT_EQ(totals.tokens, 200);
  ANNEAL_ASSERT_OK(writer->DeleteJob("a"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(steps, history->ReadSteps("a", 0, 10));
  EXPECT_THAT(steps, SizeIs(0));
}

TEST_F(CatalogStoreTest, ReadersSeeTheirProjectOnly) {
  SimulatedClock clock;
  Catalog catalog(clock);
  EXPECT_EQ(catalog.FindJob("p", "a"), nullptr);
  catalog.Publish({Job("a")});
  EXPECT_NE(catalog.FindJob("p", "a"), nullptr);
  EXPECT_EQ(catalog.FindJob("other", "a"), nullptr);
  EXPECT_EQ(catalog.AwaitVersionAbove(0, absl::InfiniteDuration()), 1u);
}

TEST_F(CatalogStoreTest, ATakenTableStaysAsItWas) {
  SimulatedClock clock;
  Catalog catalog(clock);
  catalog.Publish({Job("a"), Job("b")});
  const std::shared_ptr<const JobTable> taken = catalog.jobs();
  catalog.Publish({Job("a", v1::JOB_STATE_FAILED), Job("c")}, {"b"});
  catalog.Publish({Job("d")});
  EXPECT_THAT(*taken, SizeIs(2));
  EXPECT_EQ(taken->at("a")->job().state(), v1::JOB_STATE_PENDING);
  EXPECT_THAT(*catalog.jobs(), SizeIs(3));
  EXPECT_EQ(catalog.FindJob("p", "a")->job().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(catalog.FindJob("p", "b"), nullptr);
  EXPECT_EQ(catalog.version(), 3u);
}

TEST_F(CatalogStoreTest, JobsThatHaveNotEndedAreCounted) {
  SimulatedClock clock;
  Catalog catalog(clock);
  EXPECT_EQ(catalog.CountLiveJobs("p"), 0);
  catalog.Publish({Job("a"), Job("b"), Job("c", v1::JOB_STATE_SUCCEEDED)});
  EXPECT_EQ(catalog.CountLiveJobs("p"), 2);
  EXPECT_EQ(catalog.CountLiveJobs("other"), 0);
  catalog.Publish({Job("a", v1::JOB_STATE_RUNNING), Job("b", v1::JOB_STATE_PAUSED), Job("d")});
  EXPECT_EQ(catalog.CountLiveJobs("p"), 3);
  catalog.Publish({Job("a", v1::JOB_STATE_FAILED)}, {"c"});
  EXPECT_EQ(catalog.CountLiveJobs("p"), 2);
  catalog.Publish({Job("a", v1::JOB_STATE_FAILED)}, {"d"});
  EXPECT_EQ(catalog.CountLiveJobs("p"), 1);
}

TEST_F(CatalogStoreTest, ReadersFindJobsByRequestAndByBytes) {
  SimulatedClock clock;
  Catalog catalog(clock);
  const auto requested = Job("a");
  requested->set_request_id("r");
  const auto trained = Job("b");
  trained->add_checkpoints()->set_size_bytes(1);
  const auto done = Job("c", v1::JOB_STATE_SUCCEEDED);
  done->mutable_job()->mutable_result()->set_output_bytes(1);
  catalog.Publish({requested, trained, done});
  ASSERT_NE(catalog.FindRequest("p", "r"), nullptr);
  EXPECT_EQ(catalog.FindRequest("p", "r")->id(), "a");
  EXPECT_EQ(catalog.FindRequest("other", "r"), nullptr);
  EXPECT_EQ(catalog.FindRequest("p", ""), nullptr);
  EXPECT_THAT(catalog.JobsWithBytes("p"), SizeIs(2));
  EXPECT_THAT(catalog.JobsWithBytes("other"), SizeIs(0));
  // Their checkpoints are forgotten, the job with the outputs is deleted.
  catalog.Publish({Job("b")}, {"a", "c"});
  EXPECT_THAT(catalog.JobsWithBytes("p"), SizeIs(0));
  EXPECT_EQ(catalog.FindRequest("p", "r"), nullptr);
}

}  // namespace
}  // namespace anneal
