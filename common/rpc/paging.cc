#include "common/rpc/paging.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/rpc/status.h"

namespace anneal {
namespace {

constexpr int kDefaultSize = 50;
constexpr int kMaxSize = 1000;
constexpr size_t kHashDigits = 16;

}  // namespace

std::string MakePageToken(absl::string_view last_id, absl::string_view filter) {
  return absl::StrCat(Sha256Hex(filter).substr(0, kHashDigits), last_id);
}

absl::StatusOr<PageRequest> ParsePageRequest(int32_t page_size, absl::string_view page_token,
                                             absl::string_view filter) {
  if (page_size < 0) return InvalidField("page_size", absl::StrCat(page_size, " is negative"));
  PageRequest page;
  page.size = page_size == 0 ? kDefaultSize : std::min<int>(page_size, kMaxSize);
  if (page_token.empty()) return page;
  page.after_id = std::string(page_token.substr(std::min(page_token.size(), kHashDigits)));
  if (page.after_id.empty() || page_token != MakePageToken(page.after_id, filter)) {
    return InvalidField("page_token", "is not a token of this list; start again without one");
  }
  return page;
}

}  // namespace anneal
