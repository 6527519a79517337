#include "worker/prepare/loss_mask.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::prepare {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;

TEST(SupervisedMessagesTest, FollowsRoleTurnAndWeight) {
  const std::vector<MessageInfo> plain = {{"system", {}}, {"user", {}},      {"assistant", {}},
                                          {"user", {}},   {"assistant", {}}, {"tool", {}}};
  EXPECT_THAT(SupervisedMessages(plain, TrainOn::kAssistant),
              ElementsAre(false, false, true, false, true, false));
  EXPECT_THAT(SupervisedMessages(plain, TrainOn::kLastTurn),
              ElementsAre(false, false, false, false, true, false));
  EXPECT_THAT(SupervisedMessages(plain, TrainOn::kAll),
              ElementsAre(true, true, true, true, true, true));
  const std::vector<MessageInfo> weighted = {
      {"user", true}, {"assistant", true}, {"assistant", false}};
  EXPECT_THAT(SupervisedMessages(weighted, TrainOn::kAssistant), ElementsAre(true, true, false));
  EXPECT_THAT(SupervisedMessages(weighted, TrainOn::kLastTurn), ElementsAre(true, true, false));
  EXPECT_THAT(SupervisedMessages(weighted, TrainOn::kAll), ElementsAre(true, true, false));
}

TEST(ParseTrainOnTest, KnowsItsNames) {
  EXPECT_THAT(ParseTrainOn("LAST_TURN"), IsOkAndHolds(TrainOn::kLastTurn));
  EXPECT_THAT(ParseTrainOn("assistant"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(WeightsOfSpansTest, TokensThatTouchASpanCount) {
  Encoding encoding;
  // [0, 3) [3, 6) [6, 9) [9, 12), one added token without text in between and one at the end.
  encoding.ranges = {{0, 3}, {3, 6}, {0, 0}, {6, 9}, {9, 12}, {0, 0}};
  encoding.ids.resize(6);
  EXPECT_THAT(WeightsOfSpans(encoding, {{4, 7}}), ElementsAre(0, 1, 0, 1, 0, 0));
  EXPECT_THAT(WeightsOfSpans(encoding, {{3, 6}}), ElementsAre(0, 1, 0, 0, 0, 0));
  EXPECT_THAT(WeightsOfSpans(encoding, {{0, 1}, {11, 12}}), ElementsAre(1, 0, 0, 0, 1, 0));
  EXPECT_THAT(WeightsOfSpans(encoding, {{0, 12}, {3, 4}}), ElementsAre(1, 1, 0, 1, 1, 0));
  EXPECT_THAT(WeightsOfSpans(encoding, {}), ElementsAre(0, 0, 0, 0, 0, 0));
}

// One token a byte; bytes of `special` are special tokens.
Encoding EncodeBytes(const std::string& text, char special) {
  Encoding encoding;
  for (size_t i = 0; i < text.size(); ++i) {
    encoding.ids.push_back(text[i]);
    encoding.ranges.push_back({i, i + 1});
    encoding.special.push_back(text[i] == special);
  }
  return encoding;
}

std::string TurnText(const std::string& text, const TurnSpan& turn) {
  return text.substr(turn.range.begin, turn.range.end - turn.range.begin);
}

TEST(FindTurnsTest, ATurnGoesFromThePromptToTheEndToken) {
  const RenderedChat rendered = {.text = "U:hi#A:[call f(x)]#\nU:bye#"};
  const Encoding encoding = EncodeBytes(rendered.text, '#');
  const Attribution attribution = {
      .ranges = {{{2, 4}, 0, 0}, {{13, 14}, 1, 1}, {{15, 16}, 1, 2}, {{22, 25}, 2, 0}},
      .fields = {"content", "tool_calls[0].function.name", "tool_calls[0].function.arguments"}};
  const AssistantFrame frame = {.generation_prompt = "A:"};
  const std::vector<TurnSpan> turns = FindTurns({rendered, encoding, attribution, frame});
  ASSERT_EQ(turns.size(), 3u);
  EXPECT_EQ(TurnText(rendered.text, turns[0]), "hi#");
  EXPECT_EQ(TurnText(rendered.text, turns[1]), "[call f(x)]#") << "the frame of the call included";
  EXPECT_EQ(turns[1].message, 1);
  EXPECT_TRUE(turns[1].ends_with_token);
}

TEST(FindTurnsTest, WithoutPromptALeadBelongsToTheTurnAndWithoutEndTokenTheTextEndsIt) {
  const RenderedChat rendered = {.text = "[INST]hi[/INST] yes\n[INST]"};
  const Encoding encoding = EncodeBytes(rendered.text, '#');
  const Attribution attribution = {.ranges = {{{6, 8}, 0, 0}, {{16, 19}, 1, 0}},
                                   .fields = {"content"}};
  const AssistantFrame frame = {.lead = " "};
  const std::vector<TurnSpan> turns = FindTurns({rendered, encoding, attribution, frame});
  ASSERT_EQ(turns.size(), 2u);
  EXPECT_EQ(TurnText(rendered.text, turns[1]), " yes");
  EXPECT_FALSE(turns[1].ends_with_token);
}

TEST(FindTurnsTest, AMessageShownTwiceHasTwoTurnsAndANameStandsInNone) {
  const RenderedChat rendered = {.text = "sys#ann:hi#sys#"};
  const Encoding encoding = EncodeBytes(rendered.text, '#');
  const Attribution attribution = {
      .ranges = {{{0, 3}, 0, 0}, {{4, 7}, 1, 1}, {{8, 10}, 1, 0}, {{11, 14}, 0, 0}},
      .fields = {"content", "name"}};
  const AssistantFrame frame;
  const std::vector<TurnSpan> turns = FindTurns({rendered, encoding, attribution, frame});
  ASSERT_EQ(turns.size(), 3u);
  EXPECT_EQ(TurnText(rendered.text, turns[0]), "sys#");
  EXPECT_EQ(TurnText(rendered.text, turns[1]), "hi#");
  EXPECT_EQ(TurnText(rendered.text, turns[2]), "sys#");
}

TEST(FindTurnsTest, MarksOfTheTemplateReplaceWhatWasTraced) {
  const RenderedChat rendered = {.text = "hi#A:yes#", .generation_spans = {{5, 8}}};
  const Encoding encoding = EncodeBytes(rendered.text, '#');
  const Attribution attribution = {.ranges = {{{0, 2}, 0, 0}, {{5, 8}, 1, 0}},
                                   .fields = {"content"}};
  const AssistantFrame frame = {.generation_prompt = "A:"};
  const std::vector<TurnSpan> turns = FindTurns({rendered, encoding, attribution, frame});
  ASSERT_EQ(turns.size(), 2u);
  EXPECT_EQ(TurnText(rendered.text, turns[0]), "hi#");
  EXPECT_EQ(TurnText(rendered.text, turns[1]), "yes")
      << "the mark leaves the end token out, so it is left out";
}

TEST(FindAssistantFrameTest, FindsPromptAndLead) {
  const auto frame_of = [](absl::string_view source) {
    return FindAssistantFrame(
        *ChatTemplate::Compile(source, Json::object(), absl::UnixEpoch()).value());
  };
  const AssistantFrame chatml = frame_of(
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}#{% endfor %}{% if "
      "add_generation_prompt %}<assistant>{% endif %}");
  EXPECT_EQ(chatml.generation_prompt, "<assistant>");
  EXPECT_EQ(chatml.lead, "");
  const AssistantFrame inst = frame_of(
      "{% for m in messages %}{% if m.role == 'user' %}[I]{{ m.content }}[/I]{% else %}{{ ' ' + "
      "m.content }}{% endif %}{% endfor %}");
  EXPECT_EQ(inst.generation_prompt, "");
  EXPECT_EQ(inst.lead, " ");
  const AssistantFrame headed =
      frame_of("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
  EXPECT_EQ(headed.generation_prompt, "");
  EXPECT_EQ(headed.lead, "") << "the role's heading does not count";
  EXPECT_EQ(frame_of("{{ raise_exception('no') }}").generation_prompt, "");
}

TEST(FindAssistantFrameTest, FindsWhatBeginsACall) {
  const auto call_lead_of = [](absl::string_view heading, absl::string_view name) {
    const std::string source = absl::StrCat(
        "{% for m in messages %}{% if m.role == 'user' %}[I]{{ m.content }}[/I]{% elif "
        "m.tool_calls %}",
        heading, "[CALL] {{ ", name, " }}{% else %}", heading,
        "{{ m.content }}{% endif %}{% endfor %}");
    return FindAssistantFrame(
               *ChatTemplate::Compile(source, Json::object(), absl::UnixEpoch()).value())
        .call_lead;
  };
  EXPECT_EQ(call_lead_of("", "m.tool_calls[0].function.name"), "[CALL] ");
  EXPECT_EQ(call_lead_of("<assistant>", "m.tool_calls[0].function.name"), "[CALL] ");
  EXPECT_EQ(call_lead_of("", "m.tool_calls[0].function.arguments + m.tool_calls[0].function.name"),
            "[CALL] {}")
      << "this template takes arguments as text";
  EXPECT_EQ(call_lead_of("", "'nothing'"), "");
}

}  // namespace
}  // namespace anneal::prepare
