#include "common/config/flags.h"

#include <fstream>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/version.h"
#include "common/config/units.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct SampleOptions {
  std::string storage_root = "/srv/anneal";
  std::vector<std::string> allowed_roots = {"/data"};
  bool allow_plaintext = false;
  int slots = 2;
  absl::Duration orphan_timeout = absl::Minutes(5);
  int64_t cache_bytes = 1 << 30;
};

class FlagsTest : public ::testing::Test {
 protected:
  absl::StatusOr<bool> Parse(std::vector<const char*> arguments) {
    Flags flags("sample", "Shows how flags work.");
    flags.Text("storage-root", &options_.storage_root, "Where things are kept");
    flags.TextList("allowed-roots", &options_.allowed_roots, "Folders files may come from");
    flags.Switch("allow-plaintext", &options_.allow_plaintext, "Serve without TLS");
    flags.Integer("slots", &options_.slots, "Trainers at a time", 1, 64);
    flags.Duration("orphan-timeout", &options_.orphan_timeout, "How long a trainer lives alone",
                   absl::Seconds(1));
    flags.Bytes("cache", &options_.cache_bytes, "Size of the cache", 1 << 20);
    arguments.insert(arguments.begin(), "sample");
    return flags.Parse(static_cast<int>(arguments.size()), arguments.data());
  }

  absl::StatusOr<bool> ParseFile(const std::string& yaml, std::vector<const char*> more = {}) {
    const std::string path = ::testing::TempDir() + "flags_test.yaml";
    std::ofstream(path) << yaml;
    more.insert(more.begin(), {"--config", path.c_str()});
    return Parse(more);
  }

  SampleOptions options_;
};

TEST_F(FlagsTest, DefaultsStayWhereNothingIsSaid) {
  EXPECT_THAT(Parse({}), IsOkAndHolds(true));
  EXPECT_EQ(options_.storage_root, "/srv/anneal");
  EXPECT_THAT(options_.allowed_roots, ElementsAre("/data"));
  EXPECT_EQ(options_.orphan_timeout, absl::Minutes(5));
}

TEST_F(FlagsTest, FlagsSetFields) {
  EXPECT_THAT(Parse({"--storage-root", "/x y", "--allowed-roots", "/a", "--allowed-roots=/b",
                     "--allow-plaintext", "--slots=8", "--orphan-timeout=90s", "--cache", "2GiB"}),
              IsOkAndHolds(true));
  EXPECT_EQ(options_.storage_root, "/x y");
  EXPECT_THAT(options_.allowed_roots, ElementsAre("/a", "/b"));
  EXPECT_TRUE(options_.allow_plaintext);
  EXPECT_EQ(options_.slots, 8);
  EXPECT_EQ(options_.orphan_timeout, absl::Seconds(90));
  EXPECT_EQ(options_.cache_bytes, int64_t{2} << 30);
}

TEST_F(FlagsTest, TheFileSetsFieldsAndFlagsWin) {
  EXPECT_THAT(
      ParseFile(
          "storage_root: /file\nallowed_roots: [/a, '/b c']\nallow_plaintext: true\nslots: 4\n"
          "orphan_timeout: 10s\ncache: 64MiB\n",
          {"--slots", "5"}),
      IsOkAndHolds(true));
  EXPECT_EQ(options_.storage_root, "/file");
  EXPECT_THAT(options_.allowed_roots, ElementsAre("/a", "/b c"));
  EXPECT_TRUE(options_.allow_plaintext);
  EXPECT_EQ(options_.slots, 5);
  EXPECT_EQ(options_.orphan_timeout, absl::Seconds(10));
  EXPECT_EQ(options_.cache_bytes, 64 << 20);
  EXPECT_THAT(ParseFile("# nothing set\n"), IsOkAndHolds(true));
}

TEST_F(FlagsTest, FlagErrorsNameTheFlag) {
  const auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Parse({"--slotz", "2"}),
              StatusIs(kBad, AllOf(HasSubstr("--slotz"), HasSubstr("--help"))));
  EXPECT_THAT(Parse({"stray"}), StatusIs(kBad, HasSubstr("stray")));
  EXPECT_THAT(Parse({"--slots", "65"}), StatusIs(kBad, HasSubstr("--slots")));
  EXPECT_THAT(Parse({"--slots", "many"}), StatusIs(kBad, HasSubstr("--slots")));
  EXPECT_THAT(Parse({"--orphan-timeout", "10"}),
              StatusIs(kBad, AllOf(HasSubstr("--orphan-timeout"), HasSubstr("1h30m"))));
  EXPECT_THAT(Parse({"--orphan-timeout", "10ms"}), StatusIs(kBad, HasSubstr("below 1s")));
  EXPECT_THAT(Parse({"--cache", "8 gigs"}),
              StatusIs(kBad, AllOf(HasSubstr("--cache"), HasSubstr("8GiB"))));
  EXPECT_THAT(Parse({"--config", "/nowhere.yaml"}), StatusIs(kBad, HasSubstr("/nowhere.yaml")));
}

TEST_F(FlagsTest, FileErrorsNameFileLineAndColumn) {
  const auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(
      ParseFile("slots: 1\nslotz: 2\n"),
      StatusIs(kBad, AllOf(HasSubstr("flags_test.yaml: line 2 column 1"), HasSubstr("slotz"))));
  EXPECT_THAT(ParseFile("slots: 1\nslots: 2\n"),
              StatusIs(kBad, HasSubstr("line 2 column 1: slots is given twice")));
  EXPECT_THAT(ParseFile("allow-plaintext: true\n"), StatusIs(kBad, HasSubstr("unknown key")));
  EXPECT_THAT(ParseFile("config: other.yaml\n"), StatusIs(kBad, HasSubstr("unknown key")));
  EXPECT_THAT(ParseFile("slots: {a: 1}\n"), StatusIs(kBad, HasSubstr("slots needs a value")));
  EXPECT_THAT(ParseFile("- slots\n"), StatusIs(kBad, HasSubstr("map")));
  EXPECT_THAT(ParseFile("slots: [1\n"), StatusIs(kBad, HasSubstr("line 2")));
  EXPECT_THAT(ParseFile("cache: lots\n"), StatusIs(kBad, HasSubstr("--cache")));
}

TEST_F(FlagsTest, HelpAndVersionArePrinted) {
  ::testing::internal::CaptureStdout();
  EXPECT_THAT(Parse({"--help"}), IsOkAndHolds(false));
  const std::string help = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(help, AllOf(HasSubstr("Shows how flags work."), HasSubstr("--orphan-timeout"),
                          HasSubstr("5m"), HasSubstr("/srv/anneal"), HasSubstr("1.0 GiB")));
  ::testing::internal::CaptureStdout();
  EXPECT_THAT(Parse({"--version"}), IsOkAndHolds(false));
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "sample " + std::string(Version()) + "\n");
}

TEST(UnitsTest, BytesBothWays) {
  EXPECT_THAT(ParseBytes("4096"), IsOkAndHolds(4096));
  EXPECT_THAT(ParseBytes("1.5 KiB"), IsOkAndHolds(1536));
  EXPECT_THAT(ParseBytes("8GiB"), IsOkAndHolds(int64_t{8} << 30));
  EXPECT_THAT(ParseBytes("500MB"), IsOkAndHolds(500'000'000));
  for (const char* bad : {"", "GiB", "-1", "1e3", "1.2.3", "nan", "inf", "9223372036854775808",
                          "1Gib", "99999999TiB"}) {
    EXPECT_THAT(ParseBytes(bad), StatusIs(absl::StatusCode::kInvalidArgument)) << bad;
  }
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(268'435'456), "256.0 MiB");
}

}  // namespace
}  // namespace anneal
