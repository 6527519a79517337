#include "worker/daemon/launch.h"

#include <string>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/json.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using protocol::TaskKey;
using protocol::TaskKind;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kJob[] = "01hf7yat00abcdefghjkmnpqrs";

class LaunchTest : public ::testing::Test {
 protected:
  LaunchTest() : slots_(2) {
    slots_[0].set_id("cpu0");
    slots_[1].set_id("GPU-1");
    slots_[1].set_device_uuid("GPU-1");
    slots_[1].set_cpu_list("0-7");
    options_ = {.state_dir = temp_.path(),
                .storage_root = "/srv",
                .bin_dir = "/opt/bin",
                .device_lock_dir = "/locks",
                .data_address = "10.0.0.7"};
  }
  static internal::DesiredTask Desired(const std::string& json, const std::string& slot) {
    internal::DesiredTask desired;
    if (!slot.empty()) desired.add_slot_ids(slot);
    desired.set_task_json(json);
    return desired;
  }

  const testing::TempDir temp_;
  std::vector<v1::Slot> slots_;
  WorkerOptions options_;
  const TaskKey train_{.job = kJob, .generation = 3, .rank = 1};
  const TaskKey prepare_{.job = kJob, .generation = 3, .kind = TaskKind::kPrepare};
  const std::string train_json_ =
      R"({"job":"01hf7yat00abcdefghjkmnpqrs","generation":3,"rank":1,"threads":2,"new":true})";
  const std::string prepare_json_ =
      R"({"job":"01hf7yat00abcdefghjkmnpqrs","generation":3,"threads":1})";
};

TEST_F(LaunchTest, IdsSurviveTheRoundTripAndWrongOnesAreRefused) {
  EXPECT_THAT(TaskKeyFromProto(TaskKeyToProto(train_)), IsOkAndHolds(train_));
  EXPECT_THAT(TaskKeyFromProto(TaskKeyToProto(prepare_)), IsOkAndHolds(prepare_));
  internal::TaskId id = TaskKeyToProto(train_);
  id.set_job("../../etc");
  EXPECT_THAT(TaskKeyFromProto(id), StatusIs(kInvalid));
  id = TaskKeyToProto(train_);
  id.set_rank(-1);
  EXPECT_THAT(TaskKeyFromProto(id), StatusIs(kInvalid));
  id.set_rank(1);
  id.set_kind(internal::TaskId::KIND_PREPARE);
  EXPECT_THAT(TaskKeyFromProto(id), StatusIs(kInvalid));
  id.set_kind(internal::TaskId::KIND_UNSPECIFIED);
  EXPECT_THAT(TaskKeyFromProto(id), StatusIs(kInvalid));
}

TEST_F(LaunchTest, TheNodeAddsWhatOnlyItKnows) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      TaskFile file, MakeTaskFile(Desired(train_json_, "GPU-1"), train_, slots_, options_));
  EXPECT_EQ(file.storage_root, "/srv");
  EXPECT_THAT(file.slots, ElementsAre("GPU-1"));
  EXPECT_EQ(file.task["data_address"], "10.0.0.7");
  EXPECT_EQ(file.task["device_uuid"], "GPU-1");
  EXPECT_EQ(file.task["new"], true);  // carried, though this worker does not know it
  ANNEAL_ASSERT_OK_AND_ASSIGN(file,
                              MakeTaskFile(Desired(prepare_json_, ""), prepare_, slots_, options_));
  EXPECT_FALSE(file.task.contains("data_address"));
}

TEST_F(LaunchTest, TasksThatAreNotInOrderAreRefused) {
  const auto make = [&](const std::string& json, const std::string& slot, const TaskKey& key) {
    return MakeTaskFile(Desired(json, slot), key, slots_, options_);
  };
  EXPECT_THAT(make(train_json_, "", train_),
              StatusIs(kInvalid, HasSubstr("takes 1 slots, 0 were given")));
  EXPECT_THAT(make(train_json_, "cpu9", train_), StatusIs(kInvalid, HasSubstr("no slot cpu9")));
  EXPECT_THAT(make(prepare_json_, "cpu0", prepare_),
              StatusIs(kInvalid, HasSubstr("takes 0 slots")));
  EXPECT_THAT(make("{", "cpu0", train_), StatusIs(kInvalid, HasSubstr("not JSON")));
  EXPECT_THAT(make(R"({"job":5})", "cpu0", train_),
              StatusIs(kInvalid, HasSubstr("job: expected a string")));
  EXPECT_THAT(make(prepare_json_, "cpu0", train_), StatusIs(kInvalid, HasSubstr("of rank 0")));
  TaskKey next = train_;
  ++next.generation;
  EXPECT_THAT(make(train_json_, "cpu0", next), StatusIs(kInvalid, HasSubstr("of generation 3")));
}

TEST_F(LaunchTest, ATaskBecomesAProcess) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      TaskFile file, MakeTaskFile(Desired(train_json_, "GPU-1"), train_, slots_, options_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(RunFolder folder, RunFolder::Create(temp_.path(), train_, file));
  const SpawnRequest request = MakeSpawnRequest(folder, file, slots_, options_);
  EXPECT_EQ(request.image.program, "/opt/bin/anneal-trainer");
  EXPECT_THAT(request.start.arguments, ElementsAre("--socket", folder.path() + "/s"));
  EXPECT_EQ(request.start.log_path, "/srv/jobs/01hf7yat00abcdefghjkmnpqrs/logs/g3/rank1.log");
  EXPECT_THAT(request.image.environment, Contains(Pair("MKL_CBWR", "AUTO")));
  EXPECT_THAT(request.image.environment, Contains(Pair("OMP_NUM_THREADS", "2")));
  EXPECT_THAT(request.image.environment, Contains(Pair("CUDA_VISIBLE_DEVICES", "GPU-1")));
  EXPECT_THAT(request.image.environment, Contains(Pair("ANNEAL_LOG_FORMAT", "text")));
  EXPECT_EQ(request.image.cpu_list, "0-7");
  EXPECT_THAT(request.start.lock_paths,
              ElementsAre(temp_.path() + "/slots/GPU-1.lock", "/locks/anneal-GPU-1.lock"));

  ANNEAL_ASSERT_OK_AND_ASSIGN(file,
                              MakeTaskFile(Desired(prepare_json_, ""), prepare_, slots_, options_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(folder, RunFolder::Create(temp_.path(), prepare_, file));
  options_.logs = {.format = "json", .level = "warning"};
  const SpawnRequest prepare = MakeSpawnRequest(folder, file, slots_, options_);
  EXPECT_THAT(prepare.image.environment, Contains(Pair("ANNEAL_LOG_FORMAT", "json")));
  EXPECT_THAT(prepare.image.environment, Contains(Pair("ANNEAL_LOG_LEVEL", "warning")));
  EXPECT_EQ(prepare.image.program, "/opt/bin/anneal-prepare");
  EXPECT_EQ(prepare.start.log_path, "/srv/jobs/01hf7yat00abcdefghjkmnpqrs/logs/prepare.log");
  EXPECT_TRUE(prepare.start.lock_paths.empty());
  EXPECT_EQ(prepare.image.cpu_list, "");
  EXPECT_THAT(prepare.image.environment, Not(Contains(Key("CUDA_VISIBLE_DEVICES"))));
}

TEST_F(LaunchTest, MeasurementsStartAsTasksDo) {
  slots_[0].set_threads(3);
  slots_[1].set_accelerator(v1::ResourceSpec::ACCELERATOR_GPU);
  const std::vector<TrainerSlot> slots =
      MakeTrainerSlots(slots_, options_, {{"NCCL_DEBUG", "INFO"}, {"OMP_NUM_THREADS", "64"}});
  ASSERT_EQ(slots.size(), 2u);
  EXPECT_EQ(slots[0].id, "cpu0");
  EXPECT_EQ(slots[0].program, "/opt/bin/anneal-trainer");
  EXPECT_THAT(slots[0].environment, Contains(Pair("OMP_NUM_THREADS", "3")));
  EXPECT_THAT(slots[0].environment, Not(Contains(Key("CUDA_VISIBLE_DEVICES"))));
  EXPECT_EQ(slots[1].accelerator, v1::ResourceSpec::ACCELERATOR_GPU);
  EXPECT_THAT(slots[1].environment, Contains(Pair("CUDA_VISIBLE_DEVICES", "GPU-1")));
  EXPECT_THAT(slots[1].environment, Contains(Pair("NCCL_DEBUG", "INFO")));
}

}  // namespace
}  // namespace anneal
