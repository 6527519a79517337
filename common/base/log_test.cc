#include "common/base/log.h"

#include <cstdlib>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/log_format.h"
#include "common/base/status_matchers.h"
#include "common/base/utf8.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class LogTest : public ::testing::Test {
 protected:
  void TearDown() override {
    ::unsetenv("ANNEAL_LOG_FORMAT");
    ::unsetenv("ANNEAL_LOG_LEVEL");
    ANNEAL_EXPECT_OK(SetUpLogs({}));
    SetLogContext("");
  }
  static std::string Written(const std::function<void()>& log) {
    ::testing::internal::CaptureStderr();
    log();
    return ::testing::internal::GetCapturedStderr();
  }
  // What stands behind source=...
  static std::string Rest(const std::string& line) {
    return line.substr(line.find(' ', line.find("source=")) + 1);
  }
};

TEST_F(LogTest, ALineOfTextIsLogfmt) {
  SetLogContext("coordinator");
  const std::string line = Written(
      [] { ANNEAL_LOG(WARNING) << "job state changed" << Field("job", "j1") << Field("step", 7); });
  EXPECT_THAT(line, MatchesRegex("time=2[-0-9]+T[0-9:]+\\.[0-9]{6}Z level=warning "
                                 "program=coordinator source=log_test\\.cc:[0-9]+ "
                                 "msg=\"job state changed\" job=j1 step=7\n"));
}

TEST_F(LogTest, ValuesCannotForgeALineNorBreakAReader) {
  const std::string line = Written([] {
    ANNEAL_LOG(INFO) << "bad \"name\"\x1e" << Field("name", "a b\n\"c\" job=j2")
                     << Field("path", "a\\b") << Field("bytes", "x\xff\xc3\xa9\xed\xa0\x80")
                     << Field("raw", "\xff") << Field("none", "") << Field("bell", "\a\x7f");
  });
  EXPECT_EQ(Rest(line),
            "msg=\"bad \\\"name\\\"\\u001e\" name=\"a b\\n\\\"c\\\" job=j2\" path=\"a\\\\b\" "
            "bytes=\"x\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\" "
            "raw=\"\xEF\xBF\xBD\" none=\"\" bell=\"\\u0007\\u007f\"\n");
}

TEST_F(LogTest, ALineOfJsonHoldsEachFieldAsAMember) {
  ANNEAL_ASSERT_OK(SetUpLogs({.format = "json"}));
  SetLogContext("trainer", {Field("job", "j1"), Field("rank", 3)});
  const std::string line = Written([] {
    ANNEAL_LOG(ERROR) << "job state changed" << Field("msg", "a\n\"b\"\xff") << " at last"
                      << Field("job", "j2");
  });
  EXPECT_THAT(line, MatchesRegex("\\{\"time\":\"2[^\"]*Z\",\"level\":\"error\",\"program\":"
                                 "\"trainer\",\"source\":\"log_test\\.cc:[0-9]+\",.*\n"));
  EXPECT_THAT(line, HasSubstr(",\"msg\":\"job state changed at last\",\"job\":\"j1\",\"rank\":\"3\""
                              ",\"msg_\":\"a\\n\\\"b\\\"\xEF\xBF\xBD\",\"job_\":\"j2\"}\n"));
}

TEST_F(LogTest, TheContextOfAProcessMayGrow) {
  SetLogContext("prepare");
  EXPECT_THAT(Written([] { ANNEAL_LOG(INFO) << "up"; }), HasSubstr("program=prepare source="));
  SetLogContext("prepare", {Field("job", "j1")});
  EXPECT_EQ(Rest(Written([] { ANNEAL_LOG(INFO) << "up"; })), "msg=up job=j1\n");
}

TEST_F(LogTest, TheLevelDecidesWhatIsWritten) {
  const auto all = [] {
    ANNEAL_LOG(DEBUG) << "d";
    ANNEAL_LOG(INFO) << "i";
    ANNEAL_LOG(WARNING) << "w";
    ANNEAL_LOG(ERROR) << "e";
  };
  const auto written = [&](const std::string& level) {
    ANNEAL_EXPECT_OK(SetUpLogs({.level = level}));
    const std::string text = Written(all);
    std::string found;
    for (const char* message : {"d", "i", "w", "e"}) {
      if (text.find(absl::StrCat("msg=", message, "\n")) != std::string::npos) found += message;
    }
    return found;
  };
  EXPECT_EQ(written("debug"), "diwe");
  EXPECT_EQ(written("info"), "iwe");
  EXPECT_EQ(written("warning"), "we");
  EXPECT_EQ(written("error"), "e");
}

TEST_F(LogTest, WrongOptionsAreNamed) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(SetUpLogs({.format = "xml"}),
              StatusIs(kInvalid, "--log-format 'xml' is neither text nor json"));
  EXPECT_THAT(SetUpLogs({.level = "loud"}),
              StatusIs(kInvalid, "--log-level 'loud' is none of debug, info, warning and error"));
  ::setenv("ANNEAL_LOG_LEVEL", "loud", 1);
  EXPECT_THAT(SetUpLogsFromEnvironment(), StatusIs(kInvalid, HasSubstr("ANNEAL_LOG_LEVEL 'loud'")));
}

TEST_F(LogTest, OptionsTravelInTheEnvironment) {
  for (const auto& [name, value] : LogEnvironment({.format = "json", .level = "error"}))
    ::setenv(name.c_str(), value.c_str(), 1);
  ANNEAL_ASSERT_OK(SetUpLogsFromEnvironment());
  EXPECT_EQ(Written([] { ANNEAL_LOG(WARNING) << "w"; }), "");
  EXPECT_EQ(Written([] { ANNEAL_LOG(ERROR) << "e"; }).substr(0, 8), "{\"time\":");
}

TEST(Utf8Test, OnlyWholeSequencesCount) {
  EXPECT_EQ(Utf8SequenceBytes("a"), 1u);
  EXPECT_EQ(Utf8SequenceBytes("\xc3\xa9x"), 2u);
  EXPECT_EQ(Utf8SequenceBytes("\xe2\x82\xac"), 3u);
  EXPECT_EQ(Utf8SequenceBytes("\xf0\x9f\x99\x82"), 4u);
  for (const char* bad : {"\x80", "\xc3", "\xc3(", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
                          "\xf4\x90\x80\x80", "\xff"}) {
    EXPECT_EQ(Utf8SequenceBytes(bad), 0u);
  }
}

}  // namespace
}  // namespace anneal
