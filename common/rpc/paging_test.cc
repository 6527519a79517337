#include "common/rpc/paging.h"

#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

TEST(PagingTest, SizesAreDefaultedAndBounded) {
  EXPECT_EQ(ParsePageRequest(0, "", "f")->size, 50);
  EXPECT_EQ(ParsePageRequest(7, "", "f")->size, 7);
  EXPECT_EQ(ParsePageRequest(1'000'000, "", "f")->size, 1000);
  EXPECT_THAT(ParsePageRequest(-1, "", "f"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_size")));
}

TEST(PagingTest, ATokenBelongsToItsFilter) {
  const std::string token = MakePageToken("01hf7yat00", "project=a");
  ANNEAL_ASSERT_OK_AND_ASSIGN(PageRequest page, ParsePageRequest(0, token, "project=a"));
  EXPECT_EQ(page.after_id, "01hf7yat00");
  for (const std::string& bad : {std::string("x"), std::string(26, '0'), token.substr(0, 16)}) {
    EXPECT_THAT(ParsePageRequest(0, bad, "project=a"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")));
  }
  EXPECT_THAT(ParsePageRequest(0, token, "project=b"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace anneal
