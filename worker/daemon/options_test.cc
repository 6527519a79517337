#include "worker/daemon/options.h"

#include <string>
#include <vector>

#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

absl::StatusOr<std::optional<WorkerOptions>> Parse(std::vector<const char*> flags) {
  std::vector<const char*> argv = {"anneal-worker", "--state-dir", "s", "--storage-root", "/srv/"};
  argv.insert(argv.end(), flags.begin(), flags.end());
  return ParseWorkerOptions(static_cast<int>(argv.size()), argv.data());
}

TEST(OptionsTest, DefaultsFitTheMachine) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(std::optional<WorkerOptions> options,
                              Parse({"--coordinator", "c:7444"}));
  ASSERT_TRUE(options.has_value());
  EXPECT_FALSE(options->name.empty());
  EXPECT_EQ(options->state_dir[0], '/');
  EXPECT_EQ(options->storage_root, "/srv");
  EXPECT_EQ(options->bin_dir[0], '/');
  EXPECT_FALSE(options->data_address.empty());
  EXPECT_EQ(options->inventory.cpu_slots, -1);
  EXPECT_TRUE(options->inventory.use_gpus);
  EXPECT_EQ(options->inventory.reserved_memory_bytes, int64_t{356} << 20);
  EXPECT_EQ(options->inventory.reserved_memory_bytes_per_slot, int64_t{60} << 20);
}

TEST(OptionsTest, WrongFlagsAreNamed) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Parse({}), StatusIs(invalid, HasSubstr("--coordinator is required")));
  EXPECT_THAT(Parse({"--coordinator", "c:1", "--name", "Bad_Name"}),
              StatusIs(invalid, HasSubstr("--name 'Bad_Name'")));
  EXPECT_THAT(Parse({"--coordinator", "c:1", "--name", ""}).ok(), true);
  EXPECT_THAT(Parse({"--coordinator", "c:1", "--data-address", "localhost"}),
              StatusIs(invalid, HasSubstr("not a name")));
  EXPECT_THAT(Parse({"--coordinator", "c:1", "--cpu-slots", "-2"}), StatusIs(invalid));
  EXPECT_THAT(Parse({"--coordinator", "c:1", "--gpus=false", "--require-gpus"}),
              StatusIs(invalid, HasSubstr("--require-gpus and --gpus=false")));
  EXPECT_THAT(Parse({"--coordinator", "c:1", "--stop-grace", "soon"}), StatusIs(invalid));
}

}  // namespace
}  // namespace anneal
