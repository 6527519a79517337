#include "worker/supervisor/cpu_list.h"

#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(CpuListTest, IsWrittenAndReadAsLinuxDoes) {
  EXPECT_EQ(FormatCpuList({}), "");
  EXPECT_EQ(FormatCpuList({3}), "3");
  EXPECT_EQ(FormatCpuList({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
  EXPECT_THAT(ParseCpuList(""), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(ParseCpuList("0-2,5,7-8"), IsOkAndHolds(ElementsAre(0, 1, 2, 5, 7, 8)));
}

TEST(CpuListTest, RefusesEverythingElse) {
  for (const char* text : {"x", "1-", "-1", "2-1", "1,1", "3,2", "1-2-3", "0-99999999", "1 2"}) {
    EXPECT_THAT(ParseCpuList(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0-15,32")))
        << text;
  }
}

TEST(CpuListTest, ThisProcessMayRunSomewhere) { EXPECT_THAT(UsableProcessors(), Not(IsEmpty())); }

}  // namespace
}  // namespace anneal
