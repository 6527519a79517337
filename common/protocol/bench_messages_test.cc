#include "common/protocol/bench_messages.h"

#include "common/base/status_matchers.h"
#include "gtest/gtest.h"

namespace anneal::protocol {
namespace {

using ::anneal::testing::StatusIs;

TEST(BenchMessagesTest, FiguresAndReportsSurviveTheirJson) {
  const Json figures = ToJson(CollectiveFigures{"Gloo", 1e9, 8e8, 5e8, 1e-4});
  ANNEAL_ASSERT_OK_AND_ASSIGN(const CollectiveFigures read, CollectiveFiguresFromJson(figures));
  EXPECT_EQ(ToJson(read), figures);
  EXPECT_EQ(read.all_to_all_bytes_per_second, 8e8);
  const Json report = ToJson(CudaReport{"/lib/a.so", "2.27.5", 8, "cuda H200"});
  ANNEAL_ASSERT_OK_AND_ASSIGN(const CudaReport read_report, CudaReportFromJson(report));
  EXPECT_EQ(ToJson(read_report), report);
}

TEST(BenchMessagesTest, WhatAnswersOtherwiseIsRefused) {
  for (const Json& json : {Json::object(), Json("text"), Json{{"library", 5}}}) {
    EXPECT_THAT(CollectiveFiguresFromJson(json), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(CudaReportFromJson(json), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace anneal::protocol
