#include "common/format/json.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(JsonTest, ReadsValuesAndKeepsKeyOrder) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json json,
                              ParseJson(R"({"z":[1,-2,0.5,"x",null,true],"a":{"b":[]}})"));
  EXPECT_EQ(DumpJson(json), R"({"z":[1,-2,0.5,"x",null,true],"a":{"b":[]}})");
}

TEST(JsonTest, ErrorsSayWhere) {
  EXPECT_THAT(ParseJson("{\"a\": 1,\n \"b\": }"), StatusIs(kInvalid, HasSubstr("line 2 column 7")));
  EXPECT_THAT(ParseJson("{} x"), StatusIs(kInvalid, HasSubstr("column 4")));
  EXPECT_THAT(ParseJson(""), StatusIs(kInvalid));
  EXPECT_THAT(ParseJson("[NaN]"), StatusIs(kInvalid));
}

TEST(JsonTest, HostileTextIsRefused) {
  EXPECT_THAT(ParseJson(R"({"a":1,"b":{"a":2},"a":3})"),
              StatusIs(kInvalid, HasSubstr("\"a\" occurs twice")));
  EXPECT_THAT(ParseJson(std::string(100000, '[')), StatusIs(kInvalid, HasSubstr("deeper than 64")));
  EXPECT_THAT(ParseJson("\"\xc3\x28\""), StatusIs(kInvalid));
  EXPECT_THAT(ParseJson("[1e999]"), StatusIs(kInvalid));
  EXPECT_THAT(ParseJson("[1,2,3]", {.max_bytes = 4}), StatusIs(kInvalid, HasSubstr("limit of 4")));
  const std::string cut = R"({"messages":[{"role":"user","content":"h\u00e9"}]})";
  for (size_t n = 0; n < cut.size(); ++n) EXPECT_FALSE(ParseJson(cut.substr(0, n)).ok()) << n;
}

TEST(JsonTest, ErrorsAboutFilesQuoteNothing) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/config.json";
  std::ofstream(path) << "{\n\"a\": secret";
  EXPECT_THAT(ReadJsonFile(path),
              StatusIs(kInvalid, AllOf(HasSubstr(path + ": not JSON: line 2 column 6"),
                                       Not(HasSubstr("se'")))));
  std::filesystem::remove(path);
  EXPECT_THAT(ReadJsonFile(path), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)));
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(ReadJsonFile(path), StatusIs(kInvalid, HasSubstr("not a regular file")));
}

// The text may be a row of somebody's data.
TEST(JsonTest, ErrorsQuoteNoMoreThanAFewCharacters) {
  const std::string row = R"({"text": "begin )" + std::string(5000, 'x') + "\n end";
  const absl::Status cut = ParseJson(row).status();
  EXPECT_THAT(cut, StatusIs(kInvalid, HasSubstr("xxx...xxx")));
  EXPECT_THAT(cut, StatusIs(kInvalid, HasSubstr("last read: '\"begin")));
  EXPECT_LT(cut.message().size(), 250u);
  const std::string key(5000, 'k');
  for (const std::string& text :
       {"{\"" + key + "\":1,\"" + key + "\":2}", "[1" + std::string(5000, '0') + "]",
        "[\"" + std::string(5000, '\'') + "\xc3\x28", "[\"" + std::string(5000, '\xc3') + "\x28"}) {
    EXPECT_LT(ParseJson(text).status().message().size(), 250u);
  }
  // Not inside a character.
  const std::string wide = "{\"text\": \"" + std::string(2, 'x');
  for (const char* pad : {"", "x"}) {
    std::string euros = wide + pad;
    for (int i = 0; i < 100; ++i) euros += "\xe2\x82\xac";
    EXPECT_THAT(ParseJson(euros + "\n"), StatusIs(kInvalid, HasSubstr("\xac...\xe2")));
  }
}

}  // namespace
}  // namespace anneal
