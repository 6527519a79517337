#include "coordinator/collection/output_publisher.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "common/base/random.h"
#include "common/base/sha256.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/storage/layout.h"
#include "common/storage/testing/faulty_file_system.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class OutputPublisherTest : public ::testing::Test {
 protected:
  OutputPublisherTest() {
    root_ = *StorageRoot::Open(dir_.path() + "/root", files_, clock_, random_);
    publisher_ = std::make_unique<StorageOutputPublisher>(*root_);
  }

  static std::string ManifestOf(int64_t generation) {
    return absl::StrCat(R"({"files": [{"path": "a", "bytes": 10}, {"path": "b", "bytes": 20}], )",
                        R"("generation": )", generation, "}");
  }
  // What rank 0 of the generation leaves, and says of it.
  v1::JobResult Stage(int64_t generation) { return Stage(generation, ManifestOf(generation)); }
  v1::JobResult Stage(int64_t generation, const std::string& manifest) {
    const std::string folder = root_->Absolute(StagedOutputPath("j", generation));
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/manifest.json") << manifest;
    v1::JobResult result;
    result.set_manifest_sha256(Sha256Hex(manifest));
    return result;
  }
  std::string Published() {
    absl::StatusOr<std::string> text = ReadSmallFile(
        FileSystem::Posix(), root_->Absolute(OutputPath("j") + "/manifest.json"), 999);
    return text.ok() ? *text : "nothing";
  }

  testing::TempDir dir_;
  SimulatedClock clock_;
  SeededRandom random_{7};
  testing::FaultyFileSystem files_{FileSystem::Posix()};
  std::unique_ptr<StorageRoot> root_;
  std::unique_ptr<StorageOutputPublisher> publisher_;
};

TEST_F(OutputPublisherTest, GivesTheGenerationsOutputsTheJobsName) {
  const v1::JobResult result = Stage(1);
  EXPECT_EQ(Published(), "nothing");
  ANNEAL_ASSERT_OK_AND_ASSIGN(int64_t bytes, publisher_->Publish("j", 1, result));
  EXPECT_EQ(bytes, 30 + static_cast<int64_t>(ManifestOf(1).size()));
  EXPECT_EQ(Published(), ManifestOf(1));
  EXPECT_FALSE(std::filesystem::exists(root_->Absolute(StagedOutputPath("j", 1))));
  // As after a crash before the commit.
  ANNEAL_ASSERT_OK_AND_ASSIGN(bytes, publisher_->Publish("j", 1, result));
  EXPECT_EQ(bytes, 30 + static_cast<int64_t>(ManifestOf(1).size()));
  EXPECT_EQ(Published(), ManifestOf(1));
}

TEST_F(OutputPublisherTest, ReplacesWhatWasNeverCommitted) {
  ANNEAL_ASSERT_OK(publisher_->Publish("j", 1, Stage(1)).status());
  ANNEAL_ASSERT_OK(publisher_->Publish("j", 2, Stage(2)).status());
  EXPECT_EQ(Published(), ManifestOf(2));
}

TEST_F(OutputPublisherTest, RefusesWhatTheTrainerDidNotReport) {
  v1::JobResult result = Stage(1);
  result.set_manifest_sha256(Sha256Hex("something else"));
  EXPECT_THAT(publisher_->Publish("j", 1, result), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(Published(), "nothing");
  EXPECT_THAT(publisher_->Publish("j", 3, result), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(OutputPublisherTest, FindsTheNewestGenerationsThatLeftSomething) {
  for (const char* folder :
       {"jobs/logs/logs/g1", "jobs/logs/logs/g12", "jobs/saved/logs/g1",
        "jobs/saved/checkpoints/100-g2", "jobs/saved/checkpoints/tmp", "jobs/made/logs/g1",
        "outputs/made.partial-g3", "outputs/made", "jobs/prepared/logs", "jobs/ended/logs/g7",
        "outputs/ended.partial-g8", "jobs/odd/logs/g-4", "jobs/odd/logs/gone"}) {
    std::filesystem::create_directories(root_->Absolute(folder));
  }
  std::ofstream(root_->Absolute("jobs/prepared/logs/prepare.log")) << "ready";
  // What cannot be listed hides nothing else.
  std::filesystem::create_directories(root_->Absolute("jobs/broken"));
  std::ofstream(root_->Absolute("jobs/broken/logs")) << "no folder";
  std::filesystem::create_directories(root_->Absolute("jobs/broken/checkpoints/5-g4"));
  EXPECT_THAT(
      publisher_->FindGenerations(
          {"logs", "saved", "made", "prepared", "odd", "broken", "waiting"}),
      UnorderedElementsAre(Pair("logs", 12), Pair("saved", 2), Pair("made", 3), Pair("broken", 4)));
}

TEST_F(OutputPublisherTest, RefusesAManifestThatDoesNotSayHowMuchThereIs) {
  for (const char* manifest :
       {"", "[]", R"({"files": 3})", R"({"files": [7]})", R"({"files": [{"path": "a"}]})",
        R"({"files": [{"path": "a", "bytes": -1}]})", R"({"files": [{"path": "a", "bytes": 0.5}]})",
        R"({"files": [{"bytes": 18446744073709551615}]})",
        R"({"files": [{"bytes": 1152921504606846976}, {"bytes": 1152921504606846976}]})"}) {
    EXPECT_THAT(publisher_->Publish("j", 1, Stage(1, manifest)),
                StatusIs(absl::StatusCode::kDataLoss))
        << manifest;
    EXPECT_EQ(Published(), "nothing");
  }
}

TEST_F(OutputPublisherTest, ADeathAtAnyOperationIsMadeGood) {
  ANNEAL_ASSERT_OK(publisher_->Publish("j", 1, Stage(1)).status());
  const v1::JobResult result = Stage(2);
  bool done = false;
  for (int operations = 0; !done; ++operations) {
    ASSERT_LT(operations, 100);
    testing::FaultyFileSystem dying(FileSystem::Posix());
    absl::StatusOr<std::unique_ptr<StorageRoot>> root =
        StorageRoot::Open(dir_.path() + "/root", dying, clock_, random_);
    ASSERT_THAT(root, IsOk());
    dying.FailAfter(operations);
    done = StorageOutputPublisher(**root).Publish("j", 2, result).ok();
    ANNEAL_ASSERT_OK(publisher_->Publish("j", 2, result).status());
    EXPECT_EQ(Published(), ManifestOf(2));
    // Once more from the start.
    if (!done) {
      std::filesystem::remove_all(root_->Absolute(OutputPath("j")));
      ANNEAL_ASSERT_OK(publisher_->Publish("j", 1, Stage(1)).status());
      Stage(2);
    }
  }
}

}  // namespace
}  // namespace anneal
