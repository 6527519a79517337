#include "common/rpc/status.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::EndsWith;
using ::testing::SizeIs;

google::rpc::Status DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

TEST(RpcStatusTest, ReasonFieldsAndRetryTimeSurviveTheWire) {
  absl::Status status =
      InvalidFields({{"spec.training.epochs", "0 is below 1"}, {"spec.seed", "is negative"}});
  status = WithRetryDelay(WithReason(status, "SPEC_INVALID"), absl::Milliseconds(2500));
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_THAT(back, StatusIs(absl::StatusCode::kInvalidArgument,
                             "spec.training.epochs: 0 is below 1 (and 1 more)"));
  EXPECT_EQ(ReasonOf(back), "SPEC_INVALID");
  EXPECT_EQ(RetryDelayOf(back), absl::Milliseconds(2500));
  ASSERT_THAT(FieldViolationsOf(back), SizeIs(2));
  EXPECT_EQ(FieldViolationsOf(back)[1].field, "spec.seed");
  EXPECT_EQ(FieldViolationsOf(back)[1].description, "is negative");
}

TEST(RpcStatusTest, OkIsOkAndAPlainErrorStillHasAReason) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
  const google::rpc::Status details = DetailsOf(ToGrpcStatus(absl::NotFoundError("no job x")));
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "anneal");
  EXPECT_EQ(info.reason(), "NOT_FOUND");
  EXPECT_EQ(details.code(), 5);
  EXPECT_EQ(details.message(), "no job x");
}

TEST(RpcStatusTest, DetailsStayBelowFourKiBOnTheWire) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 1000; ++i)
    violations.push_back({std::string(5000, 'f'), std::string(5000, 'd')});
  const grpc::Status status = WithRequestId(
      ToGrpcStatus(WithReason(Annotate(InvalidFields(violations), std::string(100'000, 'm')),
                              "SPEC_INVALID")),
      std::string(1000, 'r'));
  EXPECT_EQ(RequestIdOf(FromGrpcStatus(status)).size(), 64u);
  EXPECT_LT(status.error_details().size() * 4 / 3, 4096u);
  EXPECT_LE(status.error_message().size(), 1024u);
  EXPECT_THAT(status.error_message(), EndsWith("..."));
  EXPECT_FALSE(FieldViolationsOf(FromGrpcStatus(status)).empty());
  EXPECT_EQ(ReasonOf(FromGrpcStatus(status)), "SPEC_INVALID");
}

TEST(RpcStatusTest, AtMostTwentyViolations) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 30; ++i) violations.push_back({absl::StrCat("f", i), "bad"});
  EXPECT_THAT(FieldViolationsOf(FromGrpcStatus(ToGrpcStatus(InvalidFields(violations)))),
              SizeIs(20));
}

TEST(RpcStatusTest, HostileTextBecomesValidUtf8AndIsCutBetweenCharacters) {
  const absl::Status bad = absl::InvalidArgumentError("a\xff\xc0\xaf\xed\xa0\x80z");
  EXPECT_EQ(ToGrpcStatus(bad).error_message(), "a??????z");
  std::string umlauts;
  for (int i = 0; i < 2000; ++i) umlauts += "\xc3\xa4";
  const std::string cut = ToGrpcStatus(absl::InternalError(umlauts)).error_message();
  EXPECT_EQ(cut.substr(cut.size() - 5), "\xc3\xa4...");
  EXPECT_EQ((cut.size() - 3) % 2, 0u);
}

TEST(RpcStatusTest, ForeignDetailsAreLeftOut) {
  const grpc::Status garbage(grpc::StatusCode::ABORTED, "again", std::string(64, '\xff'));
  EXPECT_THAT(FromGrpcStatus(garbage), StatusIs(absl::StatusCode::kAborted, "again"));
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_domain("elsewhere.example");
  info.set_reason("THEIRS");
  details.add_details()->PackFrom(info);
  EXPECT_EQ(
      ReasonOf(FromGrpcStatus({grpc::StatusCode::ABORTED, "again", details.SerializeAsString()})),
      "");
}

}  // namespace
}  // namespace anneal
