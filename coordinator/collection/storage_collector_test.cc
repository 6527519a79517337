#include "coordinator/collection/storage_collector.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/random.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/storage/layout.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class StorageCollectorTest : public ::testing::Test {
 protected:
  StorageCollectorTest() {
    std::filesystem::create_directory(dir_.path() + "/catalog");
    root_ = *StorageRoot::Open(dir_.path() + "/root", FileSystem::Posix(), clock_, random_);
    resources_ = *ResourceStore::Open(dir_.path() + "/catalog");
    collector_ = std::make_unique<StorageCollector>(*root_, catalog_, *resources_, clock_,
                                                    StorageCollector::Options());
  }

  void Make(const std::string& relative, bool folder = true) {
    const std::filesystem::path path = root_->Absolute(relative);
    std::filesystem::create_directories(folder ? path : path.parent_path());
    std::ofstream(folder ? path / "content" : path) << relative;
  }
  bool Exists(const std::string& relative) {
    return std::filesystem::exists(root_->Absolute(relative));
  }
  std::vector<std::string> Collect() {
    absl::StatusOr<std::vector<std::string>> collected = collector_->Collect();
    EXPECT_THAT(collected, testing::IsOk());
    return *std::move(collected);
  }
  // Twice, so that what is unwanted now is gone.
  std::vector<std::string> CollectAfterGrace() {
    Collect();
    clock_.AdvanceTime(absl::Hours(1));
    return Collect();
  }
  internal::JobRecord& Job(const std::string& id, v1::JobState state) {
    auto record = std::make_shared<internal::JobRecord>();
    record->set_id(id);
    record->mutable_job()->set_name("jobs/" + id);
    record->mutable_job()->set_state(state);
    *record->mutable_job()->mutable_finish_time() = TimestampOf(clock_.TimeNow());
    jobs_[id] = record;
    return *record;
  }
  void Commit(internal::JobRecord& record, int64_t step, int64_t generation) {
    internal::CheckpointRecord checkpoint;
    checkpoint.set_step(step);
    checkpoint.set_generation(generation);
    checkpoint.set_dir(CheckpointName(record, step, generation));
    *record.add_checkpoints() = checkpoint;
    record.mutable_train()->set_generation(generation);
  }

  // As jobs_ has them now.
  void PublishJobs() {
    std::vector<Catalog::Record> changed;
    for (const auto& [id, record] : jobs_) changed.push_back(record);
    std::vector<std::string> deleted;
    const std::shared_ptr<const JobTable> jobs = catalog_.jobs();
    for (const auto& [id, record] : *jobs) {
      if (jobs_.count(id) == 0) deleted.push_back(id);
    }
    catalog_.Publish(changed, deleted);
  }

  testing::TempDir dir_;
  SimulatedClock clock_;
  SeededRandom random_{7};
  Catalog catalog_{clock_};
  std::unique_ptr<StorageRoot> root_;
  std::unique_ptr<ResourceStore> resources_;
  std::unique_ptr<StorageCollector> collector_;
  JobTable jobs_;
};

TEST_F(StorageCollectorTest, OutputsUnderWayStayHoweverLongTheJobTrains) {
  Job("j", v1::JOB_STATE_RUNNING).mutable_train()->set_generation(2);
  PublishJobs();
  for (int generation : {1, 2, 3}) Make(StagedOutputPath("j", generation));
  EXPECT_THAT(CollectAfterGrace(), ElementsAre(StagedOutputPath("j", 1)))
      << "3 may have been told to start by a turn that is not visible yet";
  Job("j", v1::JOB_STATE_FAILED).mutable_train()->set_generation(2);
  PublishJobs();
  EXPECT_THAT(CollectAfterGrace(), ElementsAre(StagedOutputPath("j", 2), StagedOutputPath("j", 3)));
}

TEST_F(StorageCollectorTest, WhatTheCatalogDoesNotKnowGoesAfterAWhile) {
  Make("jobs/gone/logs");
  Make("outputs/gone");
  Make("blobs/prepared/gone");
  Make(BlobPath(std::string(64, 'a')), /*folder=*/false);
  Make("models/p/gone");
  EXPECT_THAT(Collect(), IsEmpty()) << "it may be about to be entered";
  clock_.AdvanceTime(absl::Minutes(59));
  EXPECT_THAT(Collect(), IsEmpty());
  clock_.AdvanceTime(absl::Minutes(1));
  EXPECT_EQ(Collect().size(), 5u);
  EXPECT_FALSE(Exists("outputs/gone"));
  // The trash is emptied after a day at least, two at most.
  EXPECT_TRUE(Exists("trash"));
  clock_.AdvanceTime(absl::Hours(48));
  Collect();
  EXPECT_TRUE(std::filesystem::is_empty(root_->Absolute("trash")));
}

TEST_F(StorageCollectorTest, KeepsCheckpointsThatAreCommittedOrMayBe) {
  internal::JobRecord& job = Job("j", v1::JOB_STATE_RUNNING);
  Commit(job, 30, 2);
  Commit(job, 20, 1);
  job.mutable_train()->set_generation(2);
  for (const char* id : {"30-g2", "20-g1", "25-g1", "10-g2", "40-g2", "99-g1", "tmp/50-g1"})
    Make(absl::StrCat("jobs/j/checkpoints/", id));
  PublishJobs();
  EXPECT_THAT(CollectAfterGrace(),
              ElementsAre("jobs/j/checkpoints/10-g2", "jobs/j/checkpoints/25-g1",
                          "jobs/j/checkpoints/99-g1", "jobs/j/checkpoints/tmp/50-g1"));
  EXPECT_TRUE(Exists("jobs/j/checkpoints/40-g2")) << "written, and about to be reported";
}

TEST_F(StorageCollectorTest, AChildKeepsItsParentsCheckpoints) {
  internal::JobRecord& parent = Job("parent", v1::JOB_STATE_FAILED);
  Commit(parent, 10, 1);
  Make("jobs/parent/checkpoints/10-g1");
  internal::JobRecord& child = Job("child", v1::JOB_STATE_QUEUED);
  *child.mutable_parent_checkpoints() = parent.checkpoints();
  PublishJobs();
  clock_.AdvanceTime(kCheckpointTimeToLive);
  EXPECT_THAT(CollectAfterGrace(), IsEmpty());
  child.mutable_job()->set_state(v1::JOB_STATE_SUCCEEDED);
  *child.mutable_job()->mutable_finish_time() = TimestampOf(clock_.TimeNow());
  PublishJobs();
  EXPECT_THAT(CollectAfterGrace(), ElementsAre("jobs/parent/checkpoints/10-g1"));
}

TEST_F(StorageCollectorTest, NothingIsCollectedWhileSomethingIsPublished) {
  Make("outputs/gone");
  Collect();
  clock_.AdvanceTime(absl::Hours(2));
  {
    absl::ReaderMutexLock publishing(&root_->publishing());
    EXPECT_THAT(Collect(), IsEmpty());
  }
  EXPECT_EQ(Collect().size(), 1u);
}

TEST_F(StorageCollectorTest, MeasuresByKind) {
  Make("outputs/a");
  Make("outputs/b");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Storage storage, collector_->Measure());
  for (const v1::Storage::Kind& kind : storage.kinds()) {
    EXPECT_EQ(kind.files(), kind.name() == "outputs" ? 2 : 0) << kind.name();
    EXPECT_EQ(kind.size_bytes(), kind.name() == "outputs" ? 18 : 0) << kind.name();
  }
  EXPECT_GT(storage.free_bytes(), 0);
}

// Jobs, files and models come and go at random; whatever is wanted at the moment must lie where it
// was put, and at the end nothing else may be left.
TEST_F(StorageCollectorTest, NothingWantedIsEverCollected) {
  struct Thing {
    std::string path;
    bool folder;
  };
  std::map<std::string, std::vector<Thing>> wanted;  // by what wants it
  int made = 0;
  for (int turn = 0; turn < 400; ++turn) {
    const uint64_t what = random_.Next() % 6;
    const std::string id = absl::StrCat("x", ++made);
    if (what == 0) {
      internal::FileRecord file;
      file.set_id(id);
      file.set_project("p");
      file.set_sha256(absl::StrCat(std::string(58, 'a' + random_.Next() % 6), 100000 + made));
      Make(BlobPath(file.sha256()), false);
      ANNEAL_ASSERT_OK(resources_->PutFile(file));
      wanted["files/" + id] = {{BlobPath(file.sha256()), false}};
    } else if (what == 1) {
      internal::ModelRecord model;
      model.set_id(id);
      model.set_project("p");
      Make(ModelPath("p", id));
      ANNEAL_ASSERT_OK(resources_->PutModel(model));
      wanted["models/" + id] = {{ModelPath("p", id), true}};
    } else if (what <= 3) {
      internal::JobRecord& job = Job(id, v1::JOB_STATE_RUNNING);
      Commit(job, 10, 1);
      wanted["jobs/" + id] = {{JobPath(id) + "/logs", true},
                              {CheckpointName(job, 10, 1), true},
                              {PreparedPath(id), true},
                              {OutputPath(id), true}};
      for (const Thing& thing : wanted["jobs/" + id]) Make(thing.path);
      Make(CheckpointName(job, 5, 1));  // dropped by retention
    } else if (!wanted.empty()) {
      auto victim = std::next(wanted.begin(), random_.Next() % wanted.size());
      const std::string name = victim->first.substr(victim->first.find('/') + 1);
      const char kind = victim->first[0];
      if (kind == 'j') {
        jobs_.erase(name);
      } else {
        ANNEAL_ASSERT_OK(kind == 'f' ? resources_->DeleteFile("p", name)
                                     : resources_->DeleteModel("p", name));
      }
      wanted.erase(victim);
    }
    PublishJobs();
    clock_.AdvanceTime(absl::Minutes(random_.Next() % 40));
    Collect();
    for (const auto& [owner, things] : wanted) {
      for (const Thing& thing : things) ASSERT_TRUE(Exists(thing.path)) << owner;
    }
  }
  CollectAfterGrace();
  std::set<std::string> expected, found;
  for (const auto& [owner, things] : wanted) {
    for (const Thing& thing : things) {
      expected.insert(root_->Absolute(thing.path) + (thing.folder ? "/content" : ""));
    }
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root_->path())) {
    const std::string path = entry.path().string();
    if (entry.is_regular_file() && path.find("/trash/") == std::string::npos &&
        path != root_->Absolute("FORMAT")) {
      found.insert(path);
    }
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace anneal
