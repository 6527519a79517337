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
  Line line{.report = SequencedReport{.sequence = 7, .report = {.step = StepReport{.step = 2, .train_loss = 1.5}}}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(Line back, ParseLine(FormatLine(line)));
  ASSERT_TRUE(back.report.has_value());
  EXPECT_EQ(back.report->sequence, 7);
  ASSERT_TRUE(back.report->report.step.has_value());
  EXPECT_EQ(back.report->report.step->train_loss, 1.5);
  EXPECT_FALSE(back.report->report.result.has_value());
}

TEST(MessagesTest, HostileLinesAreRefusedByField) {
  EXPECT_THAT(ParseLine(R"({"hello":{"generation":"7"}})"),
              StatusIs(kInvalid, HasSubstr("hello.generation: expected a 64-bit integer")));
  EXPECT_THAT(ParseLine(R"({"hello":{"rank":4294967296}})"), StatusIs(kInvalid, HasSubstr("hello.rank")));
  EXPECT_THAT(ParseLine(R"({"hello":[]})"), StatusIs(kInvalid, HasSubstr("hello: expected an object")));
  EXPECT_THAT(ParseLine(R"({"report":{"report":{"prepared":{"issues":[{},5]}}}})"),
              StatusIs(kInvalid, HasSubstr("report.report.prepared.issues[1]: expected an object")));
  EXPECT_THAT(ParseLine("{}"), StatusIs(kInvalid, HasSubstr("this one 0")));
  EXPECT_THAT(ParseLine(R"({"stop":{},"acknowledge":{"sequence":1}})"), StatusIs(kInvalid, HasSubstr("this one 2")));
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
