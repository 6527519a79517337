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

}  // namespace
}  // namespace anneal
