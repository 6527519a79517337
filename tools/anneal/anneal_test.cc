// The real `anneal` program against a coordinator in this process: what it prints and how it ends.

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/format/json.h"
#include "tools/anneal/testing/fake_coordinator.h"
#include "tools/anneal/testing/run_program.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr char kJob[] = "jobs/01hf7yat00aaaaaaaaaaaaaaaa";

class AnnealTest : public ::testing::Test {
 protected:
  AnnealTest() {
    fs::create_directories(folder_ / ".anneal");
    Write(".anneal/context.yaml",
          absl::StrCat("server: \"", coordinator_.address(),
                       "\"\napi_key_file: credentials\nshares_disk: true\n"));
    Write(".anneal/credentials", absl::StrCat(kFakeKey, " default tester\n"));
    fs::permissions(folder_ / ".anneal/credentials",
                    fs::perms::owner_read | fs::perms::owner_write);
    Write("train.jsonl", "{}\n");
  }
  ~AnnealTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }

  Outcome Anneal(const std::vector<std::string>& arguments) {
    return RunProgram("anneal", arguments, folder_.string());
  }

  const fs::path folder_ = fs::path(::testing::TempDir()) /
                           ::testing::UnitTest::GetInstance()->current_test_info()->name();
  FakeCoordinator coordinator_;
};

TEST_F(AnnealTest, BadUseIsExitTwo) {
  EXPECT_EQ(Anneal({}).code, 2);
  EXPECT_EQ(Anneal({"--help"}).code, 0);
  EXPECT_EQ(Anneal({"jobs", "--output", "xml"}).code, 2);
  const Outcome unknown = Anneal({"sumbit"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("did you mean submit?"));
  EXPECT_THAT(Anneal({"--version"}).out, StartsWith("anneal "));
}

TEST_F(AnnealTest, AKeyInPlaceOfItsNameIsNotSent) {
  const std::string secret(64, 'f');
  for (const std::string& given : {secret, "keys/" + secret}) {
    const Outcome revoke = Anneal({"--server", "127.0.0.1:1", "keys", "revoke", given});
    EXPECT_EQ(revoke.code, 2) << revoke.err;
    EXPECT_THAT(revoke.err, AllOf(HasSubstr("were not sent"), Not(HasSubstr("ffff"))));
  }
}

TEST_F(AnnealTest, AKeyIsNotSentInTheClearToOtherMachines) {
  // An address of documentation: nobody has it.
  const std::string server = "192.0.2.1:7443";
  const std::string key = (folder_ / ".anneal/credentials").string();
  const Outcome refused = Anneal({"--server", server, "--api-key-file", key, "jobs"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, AllOf(HasSubstr(server), HasSubstr("--tls"),
                                 HasSubstr("--insecure-allow-remote"), Not(HasSubstr(kFakeKey))));
}

TEST_F(AnnealTest, SubmitSendsTheDataAndCreatesTheJobOnce) {
  Write("job.yaml", "model: models/m\ndata: {train: [train.jsonl]}\n");
  coordinator_.LoseNextCreateAnswers(1);
  const Outcome run =
      Anneal({"submit", "job.yaml", "--set", "training.epochs=2", "--hold", "-o", "json"});
  EXPECT_EQ(run.code, 0) << run.err;
  ASSERT_THAT(coordinator_.created(), SizeIs(1));
  EXPECT_EQ(coordinator_.create_calls(), 2);
  const v1::CreateJobRequest request = coordinator_.created()[0];
  EXPECT_EQ(request.spec().training().epochs(), 2);
  EXPECT_TRUE(request.hold_after_validation());
  EXPECT_EQ(coordinator_.file_contents().at(request.spec().data().train(0)), "{}\n");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Json job, ParseJson(run.out));
  EXPECT_EQ(job["state"], "JOB_STATE_PENDING");
}

TEST_F(AnnealTest, FlagsNamePathsFromTheCurrentFolder) {
  fs::create_directories(folder_ / "sub");
  Write("sub/job.yaml", "model: models/m\ndata: {train: [inner.jsonl]}\n");
  Write("sub/inner.jsonl", "[]\n");
  EXPECT_EQ(Anneal({"submit", "sub/job.yaml"}).code, 0);
  EXPECT_EQ(Anneal({"submit", "sub/job.yaml", "--train", "train.jsonl"}).code, 0);
  ASSERT_THAT(coordinator_.created(), SizeIs(2));
  const auto contents = coordinator_.file_contents();
  EXPECT_EQ(contents.at(coordinator_.created()[0].spec().data().train(0)), "[]\n");
  EXPECT_EQ(contents.at(coordinator_.created()[1].spec().data().train(0)), "{}\n");
}

TEST_F(AnnealTest, BadJobFilesNameEveryProblemWithItsPlace) {
  Write("job.yaml", "model: models/m\ntraining:\n  epoch: 3\n  batch_size: many\n");
  Outcome run = Anneal({"submit", "job.yaml"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(
      run.err,
      AllOf(HasSubstr("job.yaml:3:3: error: training.epoch: unknown field (did you mean epochs?)"),
            HasSubstr("job.yaml:4:15: error: training.batch_size: expected a whole number")));
  // A value that cannot be is known before anything is sent.
  Write("job.yaml",
        "model: models/m\ndata: {train: [train.jsonl]}\ntraining:\n  epochs: 5000\nmethod:\n  "
        "lora: {rank: 0}\n");
  run = Anneal({"submit", "job.yaml"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(
      run.err,
      AllOf(HasSubstr("job.yaml:4:3: error: training.epochs: 5000 is out of range: 1 to 1000"),
            HasSubstr("job.yaml:6:10: error: method.lora.rank: 0 is out of range"),
            Not(HasSubstr("warning"))));
  EXPECT_THAT(coordinator_.created(), SizeIs(0));
  EXPECT_EQ(coordinator_.uploaded_bytes(), 0);
}

TEST_F(AnnealTest, DryRunShowsEveryValueAndCreatesNothing) {
  const Outcome run =
      Anneal({"submit", "--model", "models/m", "--train", "train.jsonl", "--dry-run"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("training.epochs  3  (default)"),
                             HasSubstr("model  \"models/m\"  (user)")));
  EXPECT_THAT(coordinator_.created(), SizeIs(0));
  EXPECT_EQ(coordinator_.uploaded_bytes(), 0);
}

TEST_F(AnnealTest, FollowEndsAsTheJobDoes) {
  v1::Job job = coordinator_.AddJob(kJob, "sentiment", v1::JOB_STATE_SUCCEEDED);
  const Outcome good = Anneal({"watch", "sentiment"});
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_THAT(good.out, AllOf(HasSubstr("is SUCCEEDED"),
                              HasSubstr("outputs   /srv/anneal/outputs/01hf7yat00aaaaaaaaaaaaaaaa"),
                              HasSubstr("vllm serve")));
  job.set_name("jobs/01hf7yat00bbbbbbbbbbbbbbbb");
  coordinator_.AddJob(job.name(), "bad", v1::JOB_STATE_FAILED);
  EXPECT_EQ(Anneal({"wait", "@last"}).code, 1);
  coordinator_.AddJob("jobs/01hf7yat00cccccccccccccccc", "stopped", v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Anneal({"wait", "@last", "-o", "json"}).code, 3);
}

TEST_F(AnnealTest, UnreachableAndDeniedHaveTheirOwnCodes) {
  EXPECT_EQ(Anneal({"--server", "127.0.0.1:1", "jobs"}).code, 4);
  Write("other", "not-the-right-key-0123456 default me\n");
  const Outcome denied = Anneal({"jobs", "--api-key-file", "other"});
  EXPECT_EQ(denied.code, 5);
  EXPECT_THAT(denied.err, Not(HasSubstr("not-the-right-key")));
}

TEST_F(AnnealTest, TablesAndJson) {
  coordinator_.AddJob(kJob, "evil \x1b[2J name", v1::JOB_STATE_RUNNING);
  const Outcome table = Anneal({"jobs"});
  EXPECT_THAT(table.out, AllOf(HasSubstr("01hf7yat00aaaaaaaaaaaaaaaa  evil ?[2J name  RUNNING"),
                               Not(HasSubstr("\x1b"))));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(Anneal({"-o", "json", "jobs"}).out));
  EXPECT_EQ(json["jobs"][0]["name"], kJob);
  EXPECT_THAT(Anneal({"workers"}).out,
              AllOf(HasSubstr("w0"), HasSubstr("READY"), Not(HasSubstr("\x1b"))));
  EXPECT_EQ(Anneal({"get", "@last"}).code, 0);
  EXPECT_THAT(Anneal({"logs", "@last", "--rank", "3"}).out, "rank 3says\n3");
  EXPECT_THAT(Anneal({"logs", "@last", "--prepare"}).out, "rank -1says\n-1");
  EXPECT_EQ(Anneal({"cancel", "@last"}).code, 0);
  EXPECT_EQ(coordinator_.GetJob(kJob).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(AnnealTest, DownloadsAreCheckedAndStayInTheirFolder) {
  coordinator_.AddJob(kJob, "sentiment", v1::JOB_STATE_SUCCEEDED);
  coordinator_.AddArtifact(kJob, "adapter/weights", "0123456789");
  fs::create_directories(folder_ / "out/adapter");
  Write("out/adapter/weights.part", "0123");
  const Outcome run = Anneal({"download", "@last", "--to", "out"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(ReadAll(folder_ / "out/adapter/weights"), "0123456789");
  coordinator_.DamageArtifacts();
  EXPECT_EQ(Anneal({"download", "@last", "--to", "out"}).code,
            0);  // the right file is there already
  const Outcome damaged = Anneal({"download", "@last", "--to", "out2"});
  EXPECT_EQ(damaged.code, 1);
  EXPECT_THAT(damaged.err, HasSubstr("arrived damaged"));
  EXPECT_FALSE(fs::exists(folder_ / "out2/adapter/weights"));
  coordinator_.AddArtifact(kJob, "../escape", "x");
  EXPECT_EQ(Anneal({"download", "@last", "--to", "out"}).code, 1);
  EXPECT_FALSE(fs::exists(folder_ / "escape"));
}

TEST_F(AnnealTest, DebugPacksOneArchiveThatTarReads) {
  coordinator_.AddJob(kJob, "sentiment", v1::JOB_STATE_FAILED);
  const Outcome run = Anneal({"debug", "sentiment", "--to", "help.tar"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.out, StartsWith("help.tar"));
  EXPECT_EQ(fs::status(folder_ / "help.tar").permissions() & fs::perms::all,
            fs::perms::owner_read | fs::perms::owner_write);
  ASSERT_EQ(std::system(absl::StrCat("tar -xf '", (folder_ / "help.tar").string(), "' -C '",
                                     folder_.string(), "'")
                            .c_str()),
            0);
  const fs::path packed = folder_ / "anneal-debug-01hf7yat00aaaaaaaaaaaaaaaa";
  const auto read = [&packed](const std::string& name) {
    std::ifstream file(packed / name);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  EXPECT_THAT(read("job.json"), HasSubstr(kJob));
  EXPECT_THAT(read("versions.json"),
              AllOf(HasSubstr("\"anneal\":"), HasSubstr("\"coordinator\":\"0.0.1\"")));
  EXPECT_THAT(read("workers.json"), HasSubstr("workers"));
  EXPECT_EQ(read("logs/prepare.log"), "rank -1says\n-1");
  // The fake coordinator does not know what else is asked for.
  EXPECT_THAT(read("missing.txt"), HasSubstr("events.jsonl: UNIMPLEMENTED"));
  for (const auto& entry : fs::recursive_directory_iterator(packed)) {
    if (!entry.is_regular_file()) continue;
    EXPECT_THAT(read(fs::relative(entry.path(), packed).string()), Not(HasSubstr(kFakeKey)));
  }
}

TEST_F(AnnealTest, DebugGoesOnAfterARankWithoutALogAndListsEveryWorker) {
  coordinator_.AddJob(kJob, "sentiment", v1::JOB_STATE_FAILED);
  coordinator_.ChangeJob(kJob, [](v1::Job& job) {
    job.set_generation(2);
    job.mutable_resolved()->mutable_spec()->mutable_resources()->set_slots(4);
    job.set_state_reason("BAD_DATA");
    job.set_state_message("1 error in the data; the first: canary");
  });
  coordinator_.LoseLogs({0, 2});
  coordinator_.SetWorkers(5);
  const Outcome run = Anneal({"debug", "sentiment", "--to", "help.tar"});
  EXPECT_EQ(run.code, 0) << run.err;
  ASSERT_EQ(std::system(absl::StrCat("tar -xf '", (folder_ / "help.tar").string(), "' -C '",
                                     folder_.string(), "'")
                            .c_str()),
            0);
  const fs::path packed = folder_ / "anneal-debug-01hf7yat00aaaaaaaaaaaaaaaa";
  for (const char* generation : {"g1", "g2"}) {
    for (const int rank : {1, 3}) {
      EXPECT_EQ(ReadAll(packed / "logs" / generation / absl::StrCat("rank", rank, ".log")),
                absl::StrCat("rank ", rank, "says\n", rank));
    }
    EXPECT_THAT(ReadAll(packed / "missing.txt"),
                HasSubstr(absl::StrCat("logs/", generation,
                                       ": NOT_FOUND: no log of rank 0, 2 (of 4 at most)")));
  }
  for (const char* worker : {"workers/w0", "workers/w2", "workers/w4"})
    EXPECT_THAT(ReadAll(packed / "workers.json"), HasSubstr(worker));
  EXPECT_THAT(ReadAll(packed / "job.json"), Not(HasSubstr("canary")));
  EXPECT_THAT(Anneal({"doctor"}).out, HasSubstr("5 of 5 ready"));
  EXPECT_THAT(Anneal({"workers"}).out, HasSubstr("w4"));
}

TEST_F(AnnealTest, LogsAreFollowedIntoTheNextAttempt) {
  coordinator_.AddJob(kJob, "sentiment", v1::JOB_STATE_RUNNING);
  coordinator_.ChangeJob(kJob, [](v1::Job& job) { job.set_generation(1); });
  coordinator_.AddLogScript({{"one\n"}, grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarts")});
  coordinator_.AddLogScript(
      {{"two\n"}, grpc::Status::OK, [](v1::Job& job) { job.set_generation(2); }});
  coordinator_.AddLogScript({{"three\n"}, grpc::Status::OK, [](v1::Job& job) {
                               job.set_state(v1::JOB_STATE_SUCCEEDED);
                             }});
  const Outcome run = Anneal({"logs", "@last", "--follow"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, "one\ntwo\n--- generation 2 ---\nthree\n");
  EXPECT_THAT(run.err, HasSubstr("lost the coordinator"));
}

TEST_F(AnnealTest, DoctorLooksAtThisMachineAndTheCoordinator) {
  const fs::path library =
      fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib/libfake_nvml.so";
  const std::vector<std::string> command = {"doctor", "--storage-root", folder_.string(),
                                            "--data-address", "127.0.0.1"};
  const Outcome good = Anneal(command);
  EXPECT_EQ(good.code, 0) << good.out;
  for (const char* found :
       {"gpu driver", "shared memory", "64 free ones at 127.0.0.1", "renames are atomic",
        "0.0.1, here", "from this machine's", "1 of 1 ready", "what to do:\n"}) {
    EXPECT_THAT(good.out, HasSubstr(found));
  }
  for (const auto& entry : fs::directory_iterator(folder_))
    EXPECT_THAT(entry.path().string(), Not(HasSubstr("doctor-"))) << "nothing stays behind";

  coordinator_.SetClockAhead(absl::Minutes(5));
  const Outcome late = Anneal(command);
  EXPECT_EQ(late.code, 6) << late.out;
  EXPECT_THAT(late.out, HasSubstr("coordinator, clock: keep it by NTP"));
  const Outcome missing = Anneal({"doctor", "--storage-root", (folder_ / "none").string()});
  EXPECT_EQ(missing.code, 6);
  EXPECT_THAT(missing.out, HasSubstr("is no folder"));
  const Outcome old = Anneal({"doctor", "--nvml-library", library.string()});
  EXPECT_THAT(old.out, HasSubstr("580.65.06 with 2 GPUs"));
}

TEST_F(AnnealTest, DoctorNamesWhatFailsInTheFleet) {
  EXPECT_EQ(Anneal({"doctor", "--all-workers"}).code, 5);
  v1::CheckFleetResponse checks;
  v1::Check& check = *checks.add_checks();
  check.set_machine("workers/w7");
  check.set_name("shared memory");
  check.set_verdict(v1::Check::VERDICT_WARNING);
  check.set_measured("/dev/shm has 64 MiB");
  check.set_advice("give it more");
  coordinator_.SetFleetChecks(checks);
  const Outcome warned = Anneal({"doctor", "--all-workers"});
  EXPECT_EQ(warned.code, 0) << warned.err;
  EXPECT_THAT(warned.out, HasSubstr("w7, shared memory: give it more"));
  EXPECT_THAT(warned.out, Not(HasSubstr("\nhere "))) << "this machine is none of the fleet's";
  check.set_verdict(v1::Check::VERDICT_FAILED);
  coordinator_.SetFleetChecks(checks);
  const Outcome failed = Anneal({"doctor", "--all-workers", "--output", "json"});
  EXPECT_EQ(failed.code, 6);
  EXPECT_THAT(failed.out, HasSubstr("\"verdict\":\"VERDICT_FAILED\""));
  EXPECT_EQ(Anneal({"doctor", "--all-workers", "--all-pairs"}).code, 6);
  EXPECT_EQ(Anneal({"doctor", "--all-workers", "--storage-root", "/tmp"}).code, 2);
  EXPECT_EQ(Anneal({"doctor", "--all-pairs"}).code, 2) << "pairs are of workers";
}

TEST_F(AnnealTest, DoctorWithoutACoordinatorStillLooksAtTheMachine) {
  const Outcome run = Anneal({"--server", "127.0.0.1:1", "doctor"});
  EXPECT_EQ(run.code, 6);
  EXPECT_THAT(run.out, HasSubstr("ports"));
  EXPECT_THAT(run.out, HasSubstr("coordinator, answer: see whether it runs"));
}

TEST_F(AnnealTest, ErrorsOfTheServiceNameTheRequest) {
  const Outcome refused = Anneal({"doctor", "--all-workers"});
  EXPECT_EQ(refused.code, 5);
  EXPECT_THAT(refused.err, ContainsRegex("\nrequest [0-9a-z]{26}\n"));
  const Outcome never_asked = Anneal({"submit", "missing.yaml"});
  EXPECT_EQ(never_asked.code, 2);
  EXPECT_THAT(never_asked.err, Not(HasSubstr("request ")));
}

TEST_F(AnnealTest, InitWritesAJobThatCanBeSubmitted) {
  EXPECT_EQ(Anneal({"init", "fresh"}).code, 0);
  EXPECT_EQ(Anneal({"init", "fresh"}).code, 2);
  const Outcome run = Anneal({"submit", "fresh/job.yaml", "--set", "model=models/m"});
  EXPECT_EQ(run.code, 0) << run.err;
  ASSERT_THAT(coordinator_.created(), SizeIs(1));
  EXPECT_THAT(coordinator_.file_contents().at(coordinator_.created()[0].spec().data().train(0)),
              HasSubstr("\"messages\""));
}

}  // namespace
}  // namespace anneal::cli
