#include "common/protocol/messages.h"

#include <string>

#include "common/base/status_matchers.h"

namespace anneal::protocol {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(MessagesTest, TasksSurviveTheRoundTrip) {
  TrainTask task;
  task.job = "01hf7yat00abcdefghjkmnpqrs";
  task.rank = 3;
  task.learning_rate = 0.1 + 0.2;  // not exactly 0.3: doubles must come back bit for bit
  task.seed = ~uint64_t{0};
  task.sharding = "FULL";
  task.checkpoint_root = "jobs/j/checkpoints";
  task.checkpoint_seconds = 0.25;
  task.resume_from = {{.step = 9, .dir = "jobs/j/checkpoints/9-g2", .manifest_sha256 = "ab"},
                      {.step = 4}};
  task.lora = LoraOptions{.rank = 4,
                          .target_modules = {"q_proj", "v_proj"},
                          .rank_pattern = {{"v_proj", 8}},
                          .alpha_pattern = {{"q_proj", 1.5}},
                          .modules_to_save = {"lm_head"}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json json, ParseJson(DumpJson(ToJson(task))));
  ANNEAL_ASSERT_OK_AND_ASSIGN(TrainTask back, TrainTaskFromJson(json));
  EXPECT_EQ(DumpJson(ToJson(back)), DumpJson(ToJson(task)));
  EXPECT_EQ(back.learning_rate, task.learning_rate);
  EXPECT_EQ(back.seed, task.seed);
  EXPECT_EQ(back.sharding, "FULL");
  EXPECT_EQ(back.checkpoint_root, "jobs/j/checkpoints");
  EXPECT_EQ(back.checkpoint_seconds, 0.25);
  ASSERT_EQ(back.resume_from.size(), 2);
  EXPECT_EQ(back.resume_from[0].step, 9);
  EXPECT_EQ(back.resume_from[0].dir, "jobs/j/checkpoints/9-g2");
  EXPECT_EQ(back.resume_from[0].manifest_sha256, "ab");
  EXPECT_EQ(back.lora->target_modules, task.lora->target_modules);
}

TEST(MessagesTest, LinesSurviveTheRoundTrip) {
  Line line{.status = Status{.phase = "train",
                             .reports = 7,
                             .rank = RankReport{.step = 2,
                                                .forward_seconds = 1.5,
                                                .collective = "reduce",
                                                .collective_sequence = 5,
                                                .in_collective = true}}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Line back, ParseLine(FormatLine(line)));
  ASSERT_TRUE(back.status.has_value());
  EXPECT_EQ(back.status->phase, "train");
  EXPECT_EQ(back.status->reports, 7);
  ASSERT_TRUE(back.status->rank.has_value());
  EXPECT_EQ(back.status->rank->forward_seconds, 1.5);
  EXPECT_EQ(back.status->rank->collective, "reduce");
  EXPECT_EQ(back.status->rank->collective_sequence, 5);
  EXPECT_TRUE(back.status->rank->in_collective);
  EXPECT_FALSE(back.stop.has_value());
}

TEST(MessagesTest, ReportsSurviveTheRoundTrip) {
  Report report{.step = StepReport{.step = 2, .train_loss = 1.5}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Report back, ReportFromJson(ToJson(report)));
  ASSERT_TRUE(back.step.has_value());
  EXPECT_EQ(back.step->train_loss, 1.5);
  EXPECT_FALSE(back.result.has_value());
}

TEST(MessagesTest, ReportsOfCheckpointsSurviveTheRoundTrip) {
  const CheckpointReport written{.step = 4,
                                 .dir = "jobs/j/checkpoints/4-g1",
                                 .manifest_sha256 = "ab",
                                 .bytes = 1'000,
                                 .write_seconds = 0.5,
                                 .stall_seconds = 0.1,
                                 .validation_loss = 1.25};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Report back, ReportFromJson(ToJson(Report{.checkpoint = written})));
  ASSERT_TRUE(back.checkpoint.has_value());
  EXPECT_EQ(back.checkpoint->dir, written.dir);
  EXPECT_EQ(back.checkpoint->stall_seconds, 0.1);
  EXPECT_EQ(back.checkpoint->validation_loss, 1.25);

  const ResumedReport resumed{
      .step = 4, .dir = "d", .damaged = {{.dir = "e", .why = "w"}}, .fingerprint_change = "f"};
  ANNEAL_ASSERT_OK_AND_ASSIGN(back, ReportFromJson(ToJson(Report{.resumed = resumed})));
  ASSERT_TRUE(back.resumed.has_value());
  ASSERT_EQ(back.resumed->damaged.size(), 1);
  EXPECT_EQ(back.resumed->damaged[0].why, "w");
  EXPECT_EQ(back.resumed->fingerprint_change, "f");

  ANNEAL_ASSERT_OK_AND_ASSIGN(
      back, ReportFromJson(ToJson(Report{.checkpoint_failed = CheckpointFailedReport{7, "full"}})));
  ASSERT_TRUE(back.checkpoint_failed.has_value());
  EXPECT_EQ(back.checkpoint_failed->why, "full");
}

TEST(MessagesTest, HostileLinesAreRefusedByField) {
  EXPECT_THAT(ParseLine(R"({"hello":{"generation":"7"}})"),
              StatusIs(kInvalid, HasSubstr("hello.generation: expected a 64-bit integer")));
  EXPECT_THAT(ParseLine(R"({"hello":{"rank":4294967296}})"),
              StatusIs(kInvalid, HasSubstr("hello.rank")));
  EXPECT_THAT(ParseLine(R"({"hello":[]})"),
              StatusIs(kInvalid, HasSubstr("hello: expected an object")));
  EXPECT_THAT(ReportFromJson(*ParseJson(R"({"prepared":{"issues":[{},5]}})")),
              StatusIs(kInvalid, HasSubstr("prepared.issues[1]: expected an object")));
  EXPECT_THAT(ParseLine("{}"), StatusIs(kInvalid, HasSubstr("this one 0")));
  EXPECT_THAT(ParseLine(R"({"stop":{},"status":{}})"), StatusIs(kInvalid, HasSubstr("this one 2")));
  EXPECT_THAT(ParseLine(R"({"stop":{},"stop":{}})"), StatusIs(kInvalid, HasSubstr("twice")));
  EXPECT_THAT(ParseLine("[1]"), StatusIs(kInvalid));
  EXPECT_THAT(ParseLine(std::string(kMaxLineBytes + 1, ' ')),
              StatusIs(kInvalid, HasSubstr("over the limit")));
  std::string deep = R"({"start":{"task":)" + std::string(100, '[') + std::string(100, ']') + "}}";
  EXPECT_THAT(ParseLine(deep), StatusIs(kInvalid, HasSubstr("deeper")));
}

TEST(MessagesTest, RelativePathsLieBelowTheStorageRoot) {
  EXPECT_EQ(ResolvePath("/srv/anneal", "outputs/j"), "/srv/anneal/outputs/j");
  EXPECT_EQ(ResolvePath("/srv/anneal", "/models/m"), "/models/m");
  EXPECT_EQ(ResolvePath("/srv/anneal", ""), "");
}

}  // namespace
}  // namespace anneal::protocol
