#include "tools/anneal/context.h"

#include <filesystem>
#include <fstream>

#include "common/base/status_matchers.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

class ContextTest : public ::testing::Test {
 protected:
  ContextTest() {
    fs::create_directories(root_ / "project/sub/deep");
    fs::create_directories(root_ / "project/.anneal");
  }
  ~ContextTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::ofstream(root_ / path) << text;
    fs::permissions(root_ / path, fs::perms::owner_read | fs::perms::owner_write);
  }
  absl::StatusOr<Context> Find(const ContextOptions& options, const std::string& folder) {
    return FindContext(options, (root_ / folder).string(), (root_ / "config.yaml").string());
  }

  const fs::path root_ = fs::path(::testing::TempDir()) /
                         ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

constexpr char kKeyLine[] = "key-0123456789abcdefghij default me\n";

TEST_F(ContextTest, FoundUpwardFromTheCurrentFolder) {
  Write("project/.anneal/context.yaml",
        "server: \"unix:/x/api.sock\"\napi_key_file: credentials\nshares_disk: true\n");
  Write("project/.anneal/credentials", kKeyLine);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Context context, Find({}, "project/sub/deep"));
  EXPECT_EQ(context.server, "unix:/x/api.sock");
  EXPECT_EQ(context.api_key, "key-0123456789abcdefghij");
  EXPECT_TRUE(context.shares_disk);
  EXPECT_EQ(context.source, (root_ / "project/.anneal/context.yaml").string());
  EXPECT_THAT(Find({}, ""), StatusIs(absl::StatusCode::kNotFound, HasSubstr("anneal up")));
}

TEST_F(ContextTest, FlagsWinOverContextsAndContextsOverTheDefault) {
  Write("project/.anneal/context.yaml", "server: local:1\n");
  Write("config.yaml",
        "current_context: a\ncontexts:\n- {name: a, server: a:1, tls: true, tls_ca_file: "
        "ca.pem}\n- {name: b, server: b:1, insecure_allow_remote: true}\n");
  Write("credentials", kKeyLine);
  EXPECT_EQ(Find({}, "project")->server, "local:1");
  EXPECT_EQ(Find({.context = "b"}, "project")->server, "b:1");
  EXPECT_TRUE(Find({.context = "b"}, "project")->insecure_allow_remote);
  EXPECT_FALSE(Find({}, "project")->insecure_allow_remote);
  EXPECT_TRUE(Find({.insecure_allow_remote = true}, "project")->insecure_allow_remote);
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      const Context flags,
      Find({.server = "flag:1", .api_key_file = (root_ / "credentials").string()}, "project"));
  EXPECT_EQ(flags.server, "flag:1");
  EXPECT_EQ(flags.api_key, "key-0123456789abcdefghij");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Context current, Find({}, ""));
  EXPECT_EQ(current.server, "a:1");
  EXPECT_TRUE(current.tls);
  EXPECT_EQ(current.tls_ca_file, (root_ / "ca.pem").string());
}

TEST_F(ContextTest, ErrorsNameTheFileAndTheLine) {
  Write("project/.anneal/context.yaml", "servr: x\n");
  EXPECT_THAT(
      Find({}, "project"),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("context.yaml:1:1: error: servr: unknown field (did you mean server?)")));
  Write("project/.anneal/context.yaml", "tls: true\n");
  EXPECT_THAT(Find({}, "project"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("names no address")));
  Write("config.yaml", "contexts: [{name: production, server: a:1}]\n");
  EXPECT_THAT(Find({.context = "prodution"}, ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("did you mean production?")));
  EXPECT_THAT(Find({}, ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("known here: production")));
  EXPECT_FALSE(Find({.server = "a:1", .api_key_file = "/nowhere"}, "").ok());
}

}  // namespace
}  // namespace anneal::cli
