#include "worker/examiner/link_probe.h"

#include <string>
#include <vector>

#include "common/base/status_matchers.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using testing::IsOk;
using testing::StatusIs;

const std::string kToken(32, 't');
constexpr char kHere[] = "127.0.0.1";

absl::StatusOr<LinkMeasurement> Measure(absl::string_view listener,
                                        const std::string& token = kToken) {
  return MeasureLink(kHere, listener, token, Clock::Real());
}

TEST(LinkProbeTest, MeasuresAStreamEachWayAndRoundTrips) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto listener, LinkListener::Start(kHere, kToken, nullptr));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const LinkMeasurement measured, Measure(listener->address()));
  EXPECT_GT(measured.bytes_per_second, 0);
  EXPECT_GT(measured.back_bytes_per_second, 0);
  EXPECT_GT(measured.round_trip_seconds, 0);
}

TEST(LinkProbeTest, SeveralAreServedOneAfterAnother) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto listener, LinkListener::Start(kHere, kToken, nullptr));
  std::vector<absl::Status> results(3, absl::UnknownError("not measured"));
  {
    std::vector<Thread> threads;
    for (absl::Status& result : results) {
      threads.emplace_back("measures", [&] { result = Measure(listener->address()).status(); });
    }
  }
  for (const absl::Status& result : results) EXPECT_THAT(result, IsOk());
}

TEST(LinkProbeTest, WithoutTheTokenNothingIsAnswered) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto listener, LinkListener::Start(kHere, kToken, nullptr));
  EXPECT_THAT(Measure(listener->address(), std::string(32, 'u')),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Measure(listener->address()), IsOk()) << "the next one is served";
}

TEST(LinkProbeTest, WhatCannotBeReachedIsSaid) {
  std::string address;
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const auto listener, LinkListener::Start(kHere, kToken, nullptr));
    address = listener->address();
  }
  EXPECT_THAT(Measure(address), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Measure("nowhere"), StatusIs(absl::StatusCode::kInvalidArgument));
  // For documentation (RFC 5737): nobody has it.
  EXPECT_THAT(LinkListener::Start("192.0.2.1", kToken, nullptr),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(LinkListener::Start(kHere, "short", nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace anneal
