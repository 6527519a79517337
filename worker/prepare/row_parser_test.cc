#include "worker/prepare/row_parser.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::prepare {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

::testing::Matcher<Issue> IssueIs(const std::string& code, const std::string& field,
                                  const std::string& text = "") {
  return AllOf(Field("code", &Issue::code, code), Field("field", &Issue::field, field),
               Field("message", &Issue::message, HasSubstr(text)),
               Field("hint", &Issue::hint, Not(IsEmpty())));
}

std::vector<Issue> IssuesOf(absl::string_view line) { return ParseRow(line).issues; }

// A conversation with `message` as its second message, after a user's.
std::vector<Issue> IssuesOfMessage(absl::string_view message) {
  return IssuesOf(
      absl::StrCat(R"({"messages": [{"role": "user", "content": "x"}, )", message, "]}"));
}

TEST(RowParserTest, ReadsConversations) {
  const ParsedRow parsed = ParseRow(
      R"({"messages": [{"role": "user", "content": "", "name": "ann"},)"
      R"( {"role": "assistant", "content": "yes", "weight": 0}, {"role": "assistant", "content": "no", "weight": 1}], "tools": [{}]})");
  ASSERT_THAT(parsed.issues, IsEmpty());
  EXPECT_EQ(parsed.row.kind, RowKind::kChat);
  EXPECT_EQ(DumpJson(parsed.row.messages),
            R"([{"role":"user","content":"","name":"ann"},{"role":"assistant","content":"yes"},)"
            R"({"role":"assistant","content":"no"}])")
      << "the template does not see weights";
  ASSERT_THAT(parsed.row.infos, SizeIs(3));
  EXPECT_EQ(parsed.row.infos[0].weight, std::nullopt);
  EXPECT_EQ(parsed.row.infos[1].weight, false);
  EXPECT_EQ(parsed.row.infos[2].weight, true);
  EXPECT_EQ(DumpJson(parsed.row.tools), "[{}]");
}

TEST(RowParserTest, ReadsPromptCompletionAndText) {
  const ParsedRow pair = ParseRow(R"({"prompt": "a", "completion": " b"})");
  EXPECT_EQ(pair.row.kind, RowKind::kPromptCompletion);
  EXPECT_EQ(pair.row.completion, " b");
  const ParsedRow text = ParseRow(R"({"text": "é\n"})");
  EXPECT_EQ(text.row.kind, RowKind::kText);
  EXPECT_EQ(text.row.text, "é\n");
}

TEST(RowParserTest, ReadsToolCallsWithArgumentsAsObjectOrText) {
  for (const char* arguments : {R"({"a": 1})", R"("{\"a\": 1}")"}) {
    EXPECT_THAT(
        IssuesOfMessage(absl::StrCat(
            R"({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": )",
            R"({"name": "f", "arguments": )", arguments, "}}]}")),
        IsEmpty());
  }
}

TEST(RowParserTest, RefusesWhatIsNotOneJsonObject) {
  EXPECT_THAT(IssuesOf(R"({"text": "a")"),
              ElementsAre(IssueIs("ROW_NOT_JSON", "", "unexpected end of input")));
  EXPECT_THAT(IssuesOf(R"({"text": "a"} {})"), ElementsAre(IssueIs("ROW_NOT_JSON", "")));
  EXPECT_THAT(IssuesOf(R"([{"text": "a"}])"), ElementsAre(IssueIs("ROW_NOT_JSON", "", "a list")));
  EXPECT_THAT(IssuesOf("null"), ElementsAre(IssueIs("ROW_NOT_JSON", "", "null")));
  EXPECT_THAT(IssuesOf("text"), ElementsAre(IssueIs("ROW_NOT_JSON", "")));
  EXPECT_THAT(IssuesOf(R"({"text": NaN})"), ElementsAre(IssueIs("ROW_NOT_JSON", "")));
  EXPECT_THAT(IssuesOf(R"({"text": "\ud800"})"), ElementsAre(IssueIs("ROW_NOT_JSON", "")));
  EXPECT_THAT(IssuesOf(R"({"text": "a", "text": "b"})"),
              ElementsAre(IssueIs("ROW_NOT_JSON", "", "\"text\" occurs twice")));
}

TEST(RowParserTest, SaysInWhichColumnJsonEnds) {
  const std::vector<Issue> issues = IssuesOf(R"({"text": oops})");
  ASSERT_THAT(issues, SizeIs(1));
  EXPECT_EQ(issues[0].column, 10);
  EXPECT_THAT(issues[0].message, ::testing::Not(HasSubstr("line 1")));
}

TEST(RowParserTest, RefusesBytesThatAreNoText) {
  EXPECT_THAT(IssuesOf("{\"text\": \"\xff\xfe\"}"),
              ElementsAre(IssueIs("ROW_NOT_JSON", "", "invalid")));
  EXPECT_THAT(IssuesOf("{\"text\": \"\xe2\x82\"}"), ElementsAre(IssueIs("ROW_NOT_JSON", "")));
  EXPECT_THAT(IssuesOf("{\"text\": \"\xed\xa0\x80\"}"), ElementsAre(IssueIs("ROW_NOT_JSON", "")));
  EXPECT_THAT(IssuesOf("\xEF\xBB\xBF{\"text\": \"a\"}"),
              ElementsAre(IssueIs("BYTE_ORDER_MARK", "")));
  EXPECT_THAT(IssuesOf(absl::string_view("{\0\"\0", 4)), ElementsAre(IssueIs("NUL_BYTE", "")));
}

TEST(RowParserTest, BoundsDepthAndNumberOfIssues) {
  const std::string deep = absl::StrCat("{\"text\": ", std::string(100'000, '['));
  EXPECT_THAT(IssuesOf(deep), ElementsAre(IssueIs("ROW_NOT_JSON", "", "nested deeper")));
  std::string many = "{\"messages\": [";
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&many, i > 0 ? "," : "", "3");
  EXPECT_THAT(IssuesOf(many + "]}"), SizeIs(kMaxIssuesPerRow));
  std::string crowd = "{\"messages\": [3";
  for (int i = 0; i < 10'000; ++i) absl::StrAppend(&crowd, ",3");
  EXPECT_THAT(IssuesOf(crowd + "]}"),
              ElementsAre(IssueIs("TOO_MANY_MESSAGES", "messages", "10001")));
}

TEST(RowParserTest, RefusesUnknownShapesAndFields) {
  EXPECT_THAT(IssuesOf("{}"), ElementsAre(IssueIs("UNKNOWN_SHAPE", "")));
  const std::vector<Issue> foreign = IssuesOf(R"({"conversations": []})");
  ASSERT_THAT(foreign, ElementsAre(IssueIs("UNKNOWN_SHAPE", "")));
  EXPECT_THAT(foreign[0].hint, HasSubstr("\"messages\""));
  EXPECT_THAT(IssuesOf(R"({"text": "a", "id": 1})"), ElementsAre(IssueIs("UNKNOWN_FIELD", "id")));
  EXPECT_THAT(IssuesOf(R"({"prompt": "a", "completion": "b", "text": "c"})"),
              ElementsAre(IssueIs("UNKNOWN_FIELD", "text")));
  EXPECT_THAT(IssuesOf(R"({"prompt": "a"})"), ElementsAre(IssueIs("MISSING_FIELD", "completion")));
  EXPECT_THAT(
      IssuesOf(R"({"prompt": 1, "completion": " "})"),
      ElementsAre(IssueIs("WRONG_TYPE", "prompt", "got 1"), IssueIs("EMPTY_TEXT", "completion")));
  EXPECT_THAT(IssuesOf(R"({"text": ["a"]})"),
              ElementsAre(IssueIs("WRONG_TYPE", "text", "got a list")));
}

TEST(RowParserTest, RefusesBadConversations) {
  EXPECT_THAT(IssuesOf(R"({"messages": []})"), ElementsAre(IssueIs("EMPTY_MESSAGES", "messages")));
  EXPECT_THAT(IssuesOf(R"({"messages": {}})"),
              ElementsAre(IssueIs("WRONG_TYPE", "messages", "an object")));
  EXPECT_THAT(IssuesOfMessage("\"hi\""),
              ElementsAre(IssueIs("WRONG_TYPE", "messages[1]", "\"hi\"")));
  EXPECT_THAT(IssuesOfMessage("{}"), ElementsAre(IssueIs("MISSING_FIELD", "messages[1].role"),
                                                 IssueIs("MISSING_FIELD", "messages[1].content")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": "gpt", "content": "a"})"),
              ElementsAre(IssueIs("UNKNOWN_ROLE", "messages[1].role")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": 1, "content": "a"})"),
              ElementsAre(IssueIs("WRONG_TYPE", "messages[1].role")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": "user", "content": [{"type": "text", "text": "a"}]})"),
              ElementsAre(IssueIs("WRONG_TYPE", "messages[1].content", "got a list")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": "user", "content": "a", "value": "b"})"),
              ElementsAre(IssueIs("UNKNOWN_FIELD", "messages[1].value")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": "user", "content": "a", "name": 3})"),
              ElementsAre(IssueIs("WRONG_TYPE", "messages[1].name")));
  for (const char* weight : {"2", "-1", "0.5", "1.0", "true", "\"1\"", "null"}) {
    EXPECT_THAT(IssuesOfMessage(absl::StrCat(R"({"role": "assistant", "content": "a", "weight": )",
                                             weight, "}")),
                ElementsAre(IssueIs("WRONG_TYPE", "messages[1].weight", "0 or 1")))
        << weight;
  }
}

TEST(RowParserTest, AnAssistantMustSaySomethingUnlessItDoesNotCount) {
  EXPECT_THAT(IssuesOfMessage(R"({"role": "assistant", "content": " \n"})"),
              ElementsAre(IssueIs("EMPTY_TEXT", "messages[1].content")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": "assistant", "content": "", "weight": 0})"), IsEmpty());
  EXPECT_THAT(IssuesOfMessage(R"({"role": "assistant", "content": null})"),
              ElementsAre(IssueIs("MISSING_FIELD", "messages[1].content")));
}

TEST(RowParserTest, RefusesBadToolCalls) {
  const auto with_calls = [](absl::string_view calls) {
    return IssuesOfMessage(
        absl::StrCat(R"({"role": "assistant", "content": "a", "tool_calls": )", calls, "}"));
  };
  EXPECT_THAT(with_calls("{}"), ElementsAre(IssueIs("WRONG_TYPE", "messages[1].tool_calls")));
  EXPECT_THAT(with_calls("[]"), ElementsAre(IssueIs("EMPTY_LIST", "messages[1].tool_calls")));
  EXPECT_THAT(with_calls("[1]"), ElementsAre(IssueIs("WRONG_TYPE", "messages[1].tool_calls[0]")));
  EXPECT_THAT(with_calls("[{}]"),
              ElementsAre(IssueIs("MISSING_FIELD", "messages[1].tool_calls[0].function")));
  EXPECT_THAT(
      with_calls(R"([{"function": {"name": "", "arguments": 3}}])"),
      ElementsAre(IssueIs("MISSING_FIELD", "messages[1].tool_calls[0].function.name"),
                  IssueIs("MISSING_FIELD", "messages[1].tool_calls[0].function.arguments")));
  EXPECT_THAT(IssuesOfMessage(R"({"role": "user", "content": "a", "tool_calls": [1]})"),
              ElementsAre(IssueIs("MISPLACED_FIELD", "messages[1].tool_calls")));
  EXPECT_THAT(IssuesOf(R"({"messages": [{"role": "user", "content": "x"}], "tools": ["f"]})"),
              ElementsAre(IssueIs("WRONG_TYPE", "tools[0]")));
}

TEST(RowParserTest, QuotesForeignTextShortlyAndWholeCharactersOnly) {
  std::string role;
  for (int i = 0; i < 100; ++i) role += "é";
  const std::vector<Issue> issues =
      IssuesOfMessage(absl::StrCat(R"({"role": ")", role, R"(", "content": "a"})"));
  ASSERT_THAT(issues, SizeIs(1));
  EXPECT_LT(issues[0].message.size(), 100u);
  EXPECT_THAT(issues[0].message, HasSubstr("é...\""));
}

}  // namespace
}  // namespace anneal::prepare
