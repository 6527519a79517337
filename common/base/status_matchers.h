#pragma once
// GoogleMock matchers for absl::Status and StatusOr, with the names of newer Abseil. Linked by
// tests only.

#include <ostream>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::testing {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status) {
  return status.status();
}

// EXPECT_THAT(expr, IsOk())
MATCHER(IsOk, "is OK") {
  *result_listener << "which is " << GetStatus(arg).ToString();
  return GetStatus(arg).ok();
}

// EXPECT_THAT(expr, StatusIs(absl::StatusCode::kNotFound, HasSubstr("job")))
MATCHER_P2(StatusIsImpl, code, message_matcher, "") {
  *result_listener << "which is " << GetStatus(arg).ToString();
  return GetStatus(arg).code() == code &&
         ::testing::Matches(message_matcher)(std::string(GetStatus(arg).message()));
}
inline auto StatusIs(absl::StatusCode code) { return StatusIsImpl(code, ::testing::_); }
template <typename M>
auto StatusIs(absl::StatusCode code, M message_matcher) {
  return StatusIsImpl(code, ::testing::Matcher<std::string>(message_matcher));
}

// EXPECT_THAT(expr, IsOkAndHolds(3)) or IsOkAndHolds(SizeIs(3))
MATCHER_P(IsOkAndHolds, inner, "") {
  if (!arg.ok()) {
    *result_listener << "which is " << arg.status().ToString();
    return false;
  }
  return ::testing::ExplainMatchResult(inner, *arg, result_listener);
}

}  // namespace anneal::testing

#define ANNEAL_ASSERT_OK(expr) ASSERT_THAT(expr, ::anneal::testing::IsOk())
#define ANNEAL_EXPECT_OK(expr) EXPECT_THAT(expr, ::anneal::testing::IsOk())
// ANNEAL_ASSERT_OK_AND_ASSIGN(auto x, F());
#define ANNEAL_ASSERT_OK_AND_ASSIGN(lhs, expr) \
  ANNEAL_ASSERT_ASSIGN_IMPL_(ANNEAL_TEST_CONCAT_(sor_, __LINE__), lhs, expr)
#define ANNEAL_TEST_CONCAT_INNER_(a, b) a##b
#define ANNEAL_TEST_CONCAT_(a, b) ANNEAL_TEST_CONCAT_INNER_(a, b)
#define ANNEAL_ASSERT_ASSIGN_IMPL_(tmp, lhs, expr)  \
  auto tmp = (expr);                                \
  ASSERT_TRUE(tmp.ok()) << tmp.status().ToString(); \
  lhs = std::move(tmp).value()
