// Job names, uploads, local inputs and following, against a coordinator in this process.

#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status_matchers.h"
#include "common/rpc/status.h"
#include "tools/anneal/follow.h"
#include "tools/anneal/job_inputs.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/testing/fake_coordinator.h"
#include "tools/anneal/upload.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr char kFirst[] = "jobs/01hf7yat00aaaaaaaaaaaaaaaa";
constexpr char kSecond[] = "jobs/01hf7yat00abbbbbbbbbbbbbbb";
constexpr char kThird[] = "jobs/01hf7yzz00cccccccccccccccc";

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() { fs::create_directories(folder_ / "model"); }
  ~ClientTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  absl::StatusOr<v1::File> Upload(const std::string& path) {
    return UploadOnce(*client_, path, progress_, 0, Clock::Real(), random_);
  }
  absl::Status SendInputs(Client& client, v1::JobSpec* spec, bool dry_run = false) {
    return SendLocalInputs(
        client, {.base_folder = folder_.string(), .dry_run = dry_run, .progress = progress_},
        Clock::Real(), random_, spec);
  }
  absl::StatusOr<Followed> Follow(const std::string& name,
                                  absl::Duration patience = absl::Minutes(1)) {
    return FollowJob(*client_, name, {.progress = &progress_, .patience = patience}, Clock::Real(),
                     random_);
  }

  const fs::path folder_ = fs::path(::testing::TempDir()) /
                           ::testing::UnitTest::GetInstance()->current_test_info()->name();
  FakeCoordinator coordinator_;
  const std::unique_ptr<Client> client_ = coordinator_.MakeClient();
  SeededRandom random_{1};
  std::ostringstream progress_;
};

TEST_F(ClientTest, JobsAreNamedInManyWays) {
  EXPECT_THAT(ResolveJobName(*client_, "@last"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no jobs yet")));
  coordinator_.AddJob(kFirst, "sentiment", v1::JOB_STATE_SUCCEEDED);
  coordinator_.AddJob(kSecond, "twin", v1::JOB_STATE_FAILED);
  coordinator_.AddJob(kThird, "twin", v1::JOB_STATE_RUNNING);
  EXPECT_THAT(ResolveJobName(*client_, "@last"), IsOkAndHolds(kThird));
  EXPECT_THAT(ResolveJobName(*client_, "sentiment"), IsOkAndHolds(kFirst));
  EXPECT_THAT(ResolveJobName(*client_, "01hf7yat00aa"), IsOkAndHolds(kFirst));
  EXPECT_THAT(ResolveJobName(*client_, "jobs/01hf7yz"), IsOkAndHolds(kThird));
  EXPECT_THAT(ResolveJobName(*client_, kSecond), IsOkAndHolds(kSecond));
  EXPECT_THAT(ResolveJobName(*client_, "01hf7yat00abcdefghjkmnpqrs"),
              IsOkAndHolds("jobs/01hf7yat00abcdefghjkmnpqrs"));
  EXPECT_THAT(ResolveJobName(*client_, "01hf7yat00a"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("may mean 2 jobs"), HasSubstr("SUCCEEDED"))));
  EXPECT_THAT(ResolveJobName(*client_, "twin"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("may mean 2 jobs")));
  EXPECT_THAT(ResolveJobName(*client_, "sentimnet"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("did you mean sentiment?")));
  EXPECT_THAT(ResolveJobName(*client_, ""), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ClientTest, ErrorsTellAnUnreachableServiceFromADeniedKey) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto nowhere,
                              Client::Connect({.server = "127.0.0.1:1", .source = "--server"}));
  EXPECT_THAT(ResolveJobName(*nowhere, "@last"),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("cannot reach the coordinator at 127.0.0.1:1 (from --server)")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      const auto stranger, Client::Connect({.server = coordinator_.address(), .api_key = "wrong"}));
  EXPECT_THAT(ResolveJobName(*stranger, "@last"), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(ClientTest, AllCallsOfACommandCarryOneRequestId) {
  const auto refused_as = [](Client& client) {
    return RequestIdOf(ResolveJobName(client, "@last").status());
  };
  const Context context = {.server = coordinator_.address(), .api_key = "wrong"};
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto first, Client::Connect(context));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto second, Client::Connect(context));
  const std::string id = refused_as(*first);
  EXPECT_TRUE(IsUlid(id)) << id;
  EXPECT_EQ(refused_as(*first), id);
  EXPECT_NE(refused_as(*second), id);
}

TEST_F(ClientTest, AFileIsSentOnce) {
  const std::string path = Write("train.jsonl", "{}\n");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File first, Upload(path));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File again, Upload(path));
  EXPECT_EQ(again.name(), first.name());
  EXPECT_THAT(coordinator_.file_contents(), ElementsAre(Pair(first.name(), "{}\n")));
  EXPECT_EQ(coordinator_.uploaded_bytes(), 3);
  EXPECT_THAT(Upload(folder_ / "nope"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("nope is not a file")));
  EXPECT_THAT(Upload(folder_), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ClientTest, ABrokenUploadGoesOnWhereItStopped) {
  std::string content;
  for (int i = 0; i < 400'000; ++i) absl::StrAppend(&content, i, "\n");
  const std::string path = Write("large.jsonl", content);
  coordinator_.BreakNextUploadAfter(1 << 20);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File file, Upload(path));
  EXPECT_EQ(coordinator_.file_contents().at(file.name()), content);
  EXPECT_EQ(coordinator_.uploaded_bytes(), static_cast<int64_t>(content.size()));
}

TEST_F(ClientTest, LocalPathsAreReplaced) {
  Write("train.jsonl", "{}\n");
  Write("val.jsonl", "[]\n");
  Write("model/config.json", "{}");
  v1::JobSpec spec;
  spec.set_model("model");
  spec.mutable_data()->add_train("train.jsonl");
  spec.mutable_data()->add_train("files/01hf7yat00abcdefghjkmnpqrs");
  spec.mutable_data()->mutable_validation()->add_files((folder_ / "val.jsonl").string());
  EXPECT_THAT(SendInputs(*client_, &spec),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("may not see this machine's folder")));
  const auto local = coordinator_.MakeClient(/*shares_disk=*/true);
  ANNEAL_ASSERT_OK(SendInputs(*local, &spec));
  EXPECT_EQ(spec.model(), "models/imported");
  ASSERT_THAT(coordinator_.imports(), SizeIs(1));
  EXPECT_EQ(coordinator_.imports()[0].source_uri(),
            absl::StrCat("file://", (folder_ / "model").string()));
  EXPECT_EQ(coordinator_.file_contents().at(spec.data().train(0)), "{}\n");
  EXPECT_EQ(spec.data().train(1), "files/01hf7yat00abcdefghjkmnpqrs");
  EXPECT_EQ(coordinator_.file_contents().at(spec.data().validation().files(0)), "[]\n");
}

TEST_F(ClientTest, ADryRunSendsNothing) {
  Write("train.jsonl", "{}\n");
  Write("model/config.json", "{}");
  v1::JobSpec spec;
  spec.set_model("model");
  spec.mutable_data()->add_train("train.jsonl");
  const auto local = coordinator_.MakeClient(/*shares_disk=*/true);
  ANNEAL_ASSERT_OK(SendInputs(*local, &spec, /*dry_run=*/true));
  EXPECT_EQ(spec.model(), absl::StrCat("file://", (folder_ / "model").string()));
  EXPECT_EQ(spec.data().train(0), absl::StrCat("file://", (folder_ / "train.jsonl").string()));
  EXPECT_EQ(coordinator_.uploaded_bytes(), 0);
  EXPECT_THAT(coordinator_.imports(), SizeIs(0));
}

TEST_F(ClientTest, NamesOfTheServiceStayAsTheyAre) {
  v1::JobSpec spec;
  spec.set_model("models/smollm2");
  spec.mutable_data()->add_train("file:///srv/data.jsonl");
  v1::JobSpec before = spec;
  ANNEAL_ASSERT_OK(SendInputs(*client_, &spec));
  EXPECT_EQ(spec.SerializeAsString(), before.SerializeAsString());
  spec.set_model("smolm");
  EXPECT_THAT(SendInputs(*client_, &spec),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("nor a folder with a config.json")));
  spec.set_model("models/smollm2");
  spec.mutable_data()->add_train("missing.jsonl");
  EXPECT_THAT(SendInputs(*client_, &spec),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("missing.jsonl does not exist")));
}

v1::WatchJobResponse Snapshot(const v1::Job& job, v1::JobState state) {
  v1::WatchJobResponse update;
  *update.mutable_snapshot() = job;
  update.mutable_snapshot()->set_state(state);
  return update;
}

v1::WatchJobResponse Step(int64_t step) {
  v1::WatchJobResponse update;
  update.set_sequence(3);
  update.mutable_step()->set_step(step);
  return update;
}

TEST_F(ClientTest, FollowingSurvivesABrokenConnection) {
  const v1::Job job = coordinator_.AddJob(kFirst, "sentiment", v1::JOB_STATE_SUCCEEDED);
  coordinator_.AddWatchScript(
      {{Snapshot(job, v1::JOB_STATE_RUNNING), Step(1), Step(2)},
       grpc::Status(grpc::StatusCode::UNAVAILABLE, "the coordinator was killed")});
  coordinator_.AddWatchScript(
      {{Snapshot(job, v1::JOB_STATE_RUNNING), Step(3), Snapshot(job, v1::JOB_STATE_SUCCEEDED)},
       {}});
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Followed followed, Follow(kFirst));
  EXPECT_FALSE(followed.detached);
  EXPECT_EQ(followed.job.state(), v1::JOB_STATE_SUCCEEDED);
  const std::vector<v1::WatchJobRequest> requests = coordinator_.watch_requests();
  ASSERT_THAT(requests, SizeIs(2));
  EXPECT_EQ(requests[1].after_sequence(), 3);
  EXPECT_EQ(requests[1].after_step(), 2);
  EXPECT_THAT(progress_.str(), HasSubstr("lost the coordinator"));
  EXPECT_THAT(progress_.str(), HasSubstr("connected again"));
}

TEST_F(ClientTest, FollowingGivesUpAfterAWhileAndAtOnceOnAWrongName) {
  EXPECT_THAT(Follow(kSecond), StatusIs(absl::StatusCode::kNotFound));
  coordinator_.AddWatchScript({{}, grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")});
  EXPECT_THAT(Follow(kFirst, -absl::Seconds(1)), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ClientTest, CtrlCDetaches) {
  coordinator_.AddJob(kFirst, "sentiment", v1::JOB_STATE_RUNNING);
  coordinator_.OnIdleWatch([] { ::kill(::getpid(), SIGINT); });
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Followed followed, Follow(kFirst));
  EXPECT_TRUE(followed.detached);
  EXPECT_EQ(coordinator_.GetJob(kFirst).state(), v1::JOB_STATE_RUNNING);
}

}  // namespace
}  // namespace anneal::cli
