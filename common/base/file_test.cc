#include "common/base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  const testing::TempDir temp_;
  const std::string path_ = temp_.path() + "/file";
};

TEST_F(FileTest, ADescriptorIsClosedOnceByItsLastOwner) {
  const int number = ::dup(STDERR_FILENO);
  {
    UniqueFd first(number);
    UniqueFd second(std::move(first));
    EXPECT_FALSE(first.valid());
    UniqueFd third;
    third = std::move(second);
    EXPECT_EQ(third.get(), number);
    EXPECT_GE(::fcntl(number, F_GETFD), 0);
  }
  EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

TEST_F(FileTest, AFileIsReplacedAsAWhole) {
  ANNEAL_ASSERT_OK(WriteFileAtomically(path_, "first, and longer"));
  ANNEAL_ASSERT_OK(WriteFileAtomically(path_, "second"));
  EXPECT_THAT(ReadSmallFile(path_), IsOkAndHolds(std::string("second")));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".tmp"));
  EXPECT_EQ(std::filesystem::status(path_).permissions(), std::filesystem::perms(0600));
  EXPECT_THAT(WriteFileAtomically(temp_.path() + "/no/file", "x"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/file")));
}

TEST_F(FileTest, ALongFileIsRefusedNotCut) {
  std::ofstream(path_) << "12345678";
  EXPECT_THAT(ReadSmallFile(path_, 8), IsOkAndHolds(std::string("12345678")));
  EXPECT_THAT(ReadSmallFile(path_, 7),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(path_)));
  EXPECT_THAT(ReadSmallFile(path_ + "x"), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path_)));
}

TEST_F(FileTest, TheTailIsTheEndOfTheFile) {
  std::ofstream(path_) << std::string(100'000, 'a') << "end";
  EXPECT_THAT(ReadFileTail(path_, 5), IsOkAndHolds(std::string("aaend")));
  EXPECT_EQ(ReadFileTail(path_, 1'000'000)->size(), 100'003u);
}

}  // namespace
}  // namespace anneal
