#include "tools/anneal/redact.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCanary[] = "canary";

v1::Issue BadRow() {
  v1::Issue issue;
  issue.set_severity(v1::Issue::SEVERITY_ERROR);
  issue.set_code("UNKNOWN_FIELD");
  issue.set_file("train.jsonl");
  issue.set_line(7);
  issue.set_field(kCanary);
  issue.set_message("unknown field \"canary\"");
  issue.set_hint("known here: text");
  return issue;
}

TEST(RedactTest, AJobRefusedForItsDataKeepsPlacesAndLosesWords) {
  v1::Job job;
  job.set_state(v1::JOB_STATE_FAILED);
  job.set_state_reason("BAD_DATA");
  job.set_state_message("2 errors in the data; the first: train.jsonl line 7: \"canary\"");
  job.mutable_error()->set_message(job.state_message());
  *job.mutable_data()->add_issues() = BadRow();
  v1::Issue& of_the_spec = *job.mutable_data()->add_issues();
  of_the_spec.set_message("no rows are held out");
  LeaveDataOut(job);
  EXPECT_THAT(job.DebugString(), Not(HasSubstr(kCanary)));
  EXPECT_THAT(job.error().message(), HasSubstr("2 errors in the data; (left out"));
  EXPECT_EQ(job.data().issues(0).line(), 7);
  EXPECT_EQ(job.data().issues(0).code(), "UNKNOWN_FIELD");
  EXPECT_EQ(job.data().issues(0).hint(), "known here: text");
  EXPECT_EQ(job.data().issues(1).message(), "no rows are held out");
}

TEST(RedactTest, SoDoEvents) {
  v1::JobEvent failed;
  failed.set_message("1 error in the data; the first: canary; and canary");
  failed.mutable_state_change()->set_reason("BAD_DATA");
  LeaveDataOut(failed);
  EXPECT_THAT(failed.DebugString(), Not(HasSubstr(kCanary)));
  v1::JobEvent warned;
  warned.set_message(kCanary);
  *warned.mutable_issue() = BadRow();
  LeaveDataOut(warned);
  EXPECT_THAT(warned.DebugString(), Not(HasSubstr(kCanary)));
  EXPECT_THAT(warned.DebugString(), HasSubstr("UNKNOWN_FIELD"));
  v1::JobEvent other;
  other.set_message("waits; for slots");
  other.mutable_state_change()->set_reason("WAITING_FOR_SLOTS");
  LeaveDataOut(other);
  EXPECT_EQ(other.message(), "waits; for slots");
}

}  // namespace
}  // namespace anneal::cli
