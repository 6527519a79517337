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
  task.lora = LoraOptions{.rank = 4, .target_modules = {"q_proj", "v_proj"}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json json, ParseJson(DumpJson(ToJson(task))));
  ANNEAL_ASSERT_OK_AND_ASSIGN(TrainTask back, TrainTaskFromJson(json));
  EXPECT_EQ(DumpJson(ToJson(back)), DumpJson(ToJson(task)));
  EXPECT_EQ(back.learning_rate, task.learning_rate);
  EXPECT_EQ(back.seed, task.seed);
  EXPECT_EQ(back.lora->target_modules, task.lora->target_modules);
}

TEST(MessagesTest, LinesSurviveTheRoundTrip) {
  Line line{.status = Status{.phase = "train", .reports = 7, .rank = RankReport{.step = 2, .forward_seconds = 1.5}}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Line back, ParseLine(FormatLine(line)));
  ASSERT_TRUE(back.status.has_value());
  EXPECT_EQ(back.status->phase, "train");
  EXPECT_EQ(back.status->reports, 7);
  ASSERT_TRUE(back.status->rank.has_value());
  EXPECT_EQ(back.status->rank->forward_seconds, 1.5);
  EXPECT_FALSE(back.stop.has_value());
}

TEST(MessagesTest, ReportsSurviveTheRoundTrip) {
  Report report{.step = StepReport{.step = 2, .train_loss = 1.5}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Report back, ReportFromJson(ToJson(report)));
  ASSERT_TRUE(back.step.has_value());
  EXPECT_EQ(back.step->train_loss, 1.5);
  EXPECT_FALSE(back.result.has_value());
}

TEST(MessagesTest, HostileLinesAreRefusedByField) {
  EXPECT_THAT(ParseLine(R"({"hello":{"generation":"7"}})"),
              StatusIs(kInvalid, HasSubstr("hello.generation: expected a 64-bit integer")));
  EXPECT_THAT(ParseLine(R"({"hello":{"rank":4294967296}})"), StatusIs(kInvalid, HasSubstr("hello.rank")));
  EXPECT_THAT(ParseLine(R"({"hello":[]})"), StatusIs(kInvalid, HasSubstr("hello: expected an object")));
  EXPECT_THAT(ReportFromJson(*ParseJson(R"({"prepared":{"issues":[{},5]}})")),
              StatusIs(kInvalid, HasSubstr("prepared.issues[1]: expected an object")));
  EXPECT_THAT(ParseLine("{}"), StatusIs(kInvalid, HasSubstr("this one 0")));
  EXPECT_THAT(ParseLine(R"({"stop":{},"status":{}})"), StatusIs(kInvalid, HasSubstr("this one 2")));
  EXPECT_THAT(ParseLine(R"({"stop":{},"stop":{}})"), StatusIs(kInvalid, HasSubstr("twice")));
  EXPECT_THAT(ParseLine("[1]"), StatusIs(kInvalid));
  EXPECT_THAT(ParseLine(std::string(kMaxLineBytes + 1, ' ')), StatusIs(kInvalid, HasSubstr("over the limit")));
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
