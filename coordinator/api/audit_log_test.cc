#include "coordinator/api/audit_log.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/json.h"

namespace anneal {
namespace {

class AuditLogTest : public ::testing::Test {
 protected:
  void Open(int64_t max_bytes = AuditLog::kMaxBytes) {
    log_.reset();
    ANNEAL_ASSERT_OK_AND_ASSIGN(log_, AuditLog::Open(path_, FileSystem::Posix(), max_bytes));
  }
  AuditEntry Entry(const std::string& peer, const std::string& code) const {
    return {.time = now_,
            .creator = code == "UNAUTHENTICATED" ? "" : "ada",
            .peer = peer,
            .method = "anneal.v1.KeyService/CreateKey",
            .code = code};
  }
  void AppendRefusals(const std::string& peer, int count) {
    for (int i = 0; i < count; ++i) log_->Append(Entry(peer, "UNAUTHENTICATED"));
  }
  std::vector<Json> Lines(const std::string& suffix = "") const {
    std::vector<Json> lines;
    std::ifstream file(path_ + suffix);
    for (std::string line; std::getline(file, line);) lines.push_back(*ParseJson(line));
    return lines;
  }

  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/audit.log";
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::unique_ptr<AuditLog> log_;
};

TEST_F(AuditLogTest, WhoHasNoKeyWritesFewLinesAndIsCounted) {
  Open();
  AppendRefusals("ipv4:10.0.0.7:1", 3);
  AppendRefusals("ipv4:10.0.0.7:2", 997);
  AppendRefusals("ipv4:10.0.0.8:1", 1);
  log_->Append(Entry("ipv4:10.0.0.7:3", "OK"));
  log_->Append(Entry("ipv4:10.0.0.7:3", "PERMISSION_DENIED"));
  EXPECT_EQ(Lines().size(), 5u + 1 + 2);

  now_ += absl::Minutes(1);
  AppendRefusals("ipv4:10.0.0.7:4", 1);
  std::vector<Json> lines = Lines();
  ASSERT_EQ(lines.size(), 8u + 2);
  EXPECT_EQ(lines[8]["count"], 995);
  EXPECT_EQ(lines[8]["peer"], "ipv4:10.0.0.7:2");
  EXPECT_EQ(lines[8]["code"], "UNAUTHENTICATED");
  EXPECT_FALSE(lines[9].contains("count"));

  // What is held back at the end is written then.
  AppendRefusals("ipv4:10.0.0.7:4", 6);
  log_.reset();
  lines = Lines();
  ASSERT_EQ(lines.size(), 10u + 4 + 1);
  EXPECT_EQ(lines.back()["count"], 2);
}

TEST_F(AuditLogTest, ManyHostsTogetherAreHeldBackToo) {
  Open();
  for (int i = 0; i < 200; ++i) AppendRefusals(absl::StrCat("ipv4:10.0.1.", i, ":1"), 100);
  EXPECT_EQ(Lines().size(), AuditLog::kAllRefusalsAMinute);
  log_.reset();
  const std::vector<Json> lines = Lines();
  EXPECT_LE(lines.size(), AuditLog::kAllRefusalsAMinute + AuditLog::kMostHosts + 1);
  int64_t refusals = 0;
  for (const Json& line : lines) refusals += line.value("count", int64_t{1});
  EXPECT_EQ(refusals, 200 * 100);
}

TEST_F(AuditLogTest, AClockThatWasSetBackHoldsNothingUp) {
  Open();
  AppendRefusals("ipv4:10.0.0.7:1", 6);
  now_ -= absl::Hours(1);
  AppendRefusals("ipv4:10.0.0.7:1", 1);
  EXPECT_EQ(Lines().size(), 5u + 1 + 1);
}

TEST_F(AuditLogTest, OlderFilesAreKeptSoManyAndNoMore) {
  Open(1);  // each line turns over
  for (int i = 0; i < AuditLog::kOlderFiles + 5; ++i) {
    AuditEntry entry = Entry("unix:", "OK");
    entry.resource = absl::StrCat(i);
    log_->Append(entry);
  }
  ASSERT_EQ(Lines().size(), 1u);
  EXPECT_EQ(Lines()[0]["resource"], absl::StrCat(AuditLog::kOlderFiles + 4));
  ASSERT_EQ(Lines(absl::StrCat(".", AuditLog::kOlderFiles)).size(), 1u);
  EXPECT_EQ(Lines(absl::StrCat(".", AuditLog::kOlderFiles))[0]["resource"], "4");
  EXPECT_FALSE(std::filesystem::exists(absl::StrCat(path_, ".", AuditLog::kOlderFiles + 1)));
}

TEST_F(AuditLogTest, WhatACallerMakesUpIsCut) {
  Open();
  AuditEntry entry = Entry("unix:", "OK");
  entry.method = entry.resource = entry.detail = std::string(5000, 'x');
  log_->Append(entry);
  EXPECT_LT(std::filesystem::file_size(path_), 1000u);
}

}  // namespace
}  // namespace anneal
