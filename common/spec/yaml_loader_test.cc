#include "common/spec/yaml_loader.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/job.pb.h"
#include "common/spec/issues.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::spec {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::string> Load(const std::string& text, v1::JobSpec* spec = nullptr) {
  v1::JobSpec unused;
  std::vector<std::string> lines;
  for (const v1::Issue& issue : LoadYaml(text, "job.yaml", spec != nullptr ? spec : &unused)) {
    lines.push_back(FormatIssue(issue));
  }
  return lines;
}

TEST(YamlLoaderTest, LoadsTheDocumentedJobFile) {
  v1::JobSpec spec;
  EXPECT_THAT(Load(R"(
display_name: movie-sentiment
model: models/smollm2-135m-instruct
method: { lora: { rank: 16, alpha: 32, dropout: 0.0, target_modules: [all-linear] } }
data:
  train: [data/train.jsonl]
  validation: { files: [data/val.jsonl] }
  max_length: 2048
  over_length: REJECT
  train_on: train_on_assistant
training: { epochs: 1, batch_size: 16, learning_rate: 2e-4, schedule: Cosine, warmup_ratio: 0.03, max_grad_norm: 1.0, seed: 7 }
resources: { slots: 2, accelerator: CPU }
evaluation: { every_steps: 0 }
labels: { run: 7, "quoted key": yes }
)",
                   &spec),
              IsEmpty());
  EXPECT_EQ(spec.method().lora().rank(), 16);
  EXPECT_EQ(spec.method().lora().alpha(), 32.0);
  EXPECT_EQ(spec.data().train(0), "data/train.jsonl");
  EXPECT_EQ(spec.data().over_length(), v1::DataSpec::OVER_LENGTH_REJECT);
  EXPECT_EQ(spec.data().train_on(), v1::DataSpec::TRAIN_ON_ASSISTANT);
  EXPECT_EQ(spec.training().learning_rate(), 2e-4);
  EXPECT_EQ(spec.training().schedule(), v1::TrainingSpec::SCHEDULE_COSINE);
  EXPECT_TRUE(spec.evaluation().has_every_steps());
  EXPECT_FALSE(spec.evaluation().has_max_rows());
  EXPECT_EQ(spec.labels().at("run"), "7");
  EXPECT_EQ(spec.labels().at("quoted key"), "yes");
}

TEST(YamlLoaderTest, LoadsJsonIndentedWithTabs) {
  v1::JobSpec spec;
  EXPECT_THAT(Load("{\n\t\"model\": \"models/m\",\n\t\"training\":\t{\"epochs\": 2}\n}", &spec),
              IsEmpty());
  EXPECT_EQ(spec.training().epochs(), 2);
}

TEST(YamlLoaderTest, UnknownKeysHaveAPlaceAndASuggestion) {
  EXPECT_THAT(
      Load("model: models/m\ntraining:\n  epoch: 3\n  learning-rate: 1\n"),
      ElementsAre("job.yaml:3:3: error: training.epoch: unknown field (did you mean epochs?)",
                  "job.yaml:4:3: error: training.learning-rate: unknown field (did you mean "
                  "learning_rate?)"));
  EXPECT_THAT(
      Load("epochs: 3"),
      ElementsAre("job.yaml:1:1: error: epochs: unknown field (did you mean training.epochs?)"));
  EXPECT_THAT(
      Load("method: {qlora: {}}"),
      ElementsAre("job.yaml:1:10: error: method.qlora: unknown field (did you mean lora?)"));
  EXPECT_THAT(
      Load("output: {xyzzy: 1}"),
      ElementsAre("job.yaml:1:10: error: output.xyzzy: unknown field (known here: merged)"));
}

TEST(YamlLoaderTest, DuplicateKeysAreErrors) {
  EXPECT_THAT(Load("training:\n  epochs: 1\n  seed: 1\n  epochs: 2\n"),
              ElementsAre("job.yaml:4:3: error: training.epochs: given twice, first in line 2"));
  EXPECT_THAT(Load("labels: {a: 1, a: 2}"), ElementsAre(HasSubstr("labels.a: given twice")));
  EXPECT_THAT(Load("{\"model\": \"a\", \"model\": \"b\"}"),
              ElementsAre(HasSubstr("job.yaml:1:16: error: model: given twice")));
}

TEST(YamlLoaderTest, TimeSpansAreWrittenWithUnits) {
  v1::JobSpec spec;
  EXPECT_THAT(LoadYaml("checkpoint: {every: 1h30m}", "job.yaml", &spec), IsEmpty());
  EXPECT_EQ(spec.checkpoint().every().seconds(), 5400);
  EXPECT_THAT(ApplyOverride("checkpoint.every=1.5s", &spec), IsEmpty());
  EXPECT_EQ(spec.checkpoint().every().nanos(), 500'000'000);
  EXPECT_THAT(Load("checkpoint: {every: 10}"),
              ElementsAre(HasSubstr("expected a time span, not '10' (write 10m, 90s or 1h30m)")));
  EXPECT_THAT(Load("checkpoint: {every: inf}"), ElementsAre(HasSubstr("expected a time span")));
  EXPECT_THAT(Load("checkpoint: {every: {seconds: 3}}"),
              ElementsAre(HasSubstr("expected a time span")));
}

TEST(YamlLoaderTest, OneofMembersExcludeEachOther) {
  EXPECT_THAT(Load("method: {lora: {}, full: {}}"),
              ElementsAre("job.yaml:1:20: error: method.full: lora and full exclude each other "
                          "(keep one of them)"));
  v1::JobSpec spec;
  EXPECT_THAT(Load("method:\n  full:\n", &spec), IsEmpty());
  EXPECT_TRUE(spec.method().has_full());
}

TEST(YamlLoaderTest, WrongTypesSayWhatWasExpected) {
  EXPECT_THAT(
      Load("training: {epochs: '3'}"),
      ElementsAre(
          "job.yaml:1:20: error: training.epochs: expected a whole number, not the text '3'"));
  EXPECT_THAT(Load("training: {epochs: 2.5}"),
              ElementsAre(HasSubstr("expected a whole number, not '2.5'")));
  EXPECT_THAT(Load("training: {epochs: 010}"), ElementsAre(HasSubstr("expected a whole number")));
  EXPECT_THAT(Load("training: {epochs: 1_000}"), ElementsAre(HasSubstr("expected a whole number")));
  EXPECT_THAT(Load("training: {learning_rate: fast}"),
              ElementsAre(HasSubstr("expected a number, not 'fast'")));
  EXPECT_THAT(Load("training: {learning_rate: .nan}"), ElementsAre(HasSubstr("expected a number")));
  EXPECT_THAT(Load("training: {learning_rate: 0x10}"), ElementsAre(HasSubstr("expected a number")));
  EXPECT_THAT(Load("output: {merged: yes}"),
              ElementsAre(HasSubstr("expected true or false, not 'yes'")));
  EXPECT_THAT(Load("training: 5"),
              ElementsAre(HasSubstr("training: expected a map of fields, not '5'")));
  EXPECT_THAT(Load("training:"),
              ElementsAre(HasSubstr("training: expected a map of fields, not nothing")));
  EXPECT_THAT(
      Load("data: {train: a.jsonl}"),
      ElementsAre(
          "job.yaml:1:15: error: data.train: expected a list, not 'a.jsonl' (write ['a.jsonl'])"));
  EXPECT_THAT(Load("data: {train: [[a]]}"),
              ElementsAre(HasSubstr("data.train[0]: expected text, not a list")));
  EXPECT_THAT(Load("model: [a]"), ElementsAre(HasSubstr("model: expected text, not a list")));
  EXPECT_THAT(Load("- model"), ElementsAre(HasSubstr("expected a map of fields, not a list")));
  EXPECT_THAT(Load("just text"), ElementsAre(HasSubstr("expected a map of fields")));
}

TEST(YamlLoaderTest, EnumValuesAreNamed) {
  EXPECT_THAT(Load("data: {over_length: TRUNCATED}"),
              ElementsAre(HasSubstr("did you mean TRUNCATE?")));
  EXPECT_THAT(Load("data: {over_length: foo}"),
              ElementsAre(HasSubstr("known here: REJECT, TRUNCATE, DROP")));
  EXPECT_THAT(Load("data: {over_length: UNSPECIFIED}"), SizeIs(1));
  EXPECT_THAT(Load("data: {over_length: 1}"), SizeIs(1));
}

TEST(YamlLoaderTest, HugeNumbersAreOutOfRange) {
  EXPECT_THAT(Load("training: {epochs: 2147483648}"),
              ElementsAre(HasSubstr("'2147483648' is out of range: -2147483648 to 2147483647")));
  EXPECT_THAT(Load("training: {seed: 18446744073709551616}"),
              ElementsAre(HasSubstr("is out of range")));
  EXPECT_THAT(Load("training: {seed: -1}"), ElementsAre(HasSubstr("is out of range")));
  EXPECT_THAT(Load("training: {learning_rate: 1e999}"), ElementsAre(HasSubstr("is out of range")));
  EXPECT_THAT(Load(absl::StrCat("training: {max_steps: ", std::string(10'000, '9'), "}")),
              ElementsAre(HasSubstr("999...' is out of range")));
}

TEST(YamlLoaderTest, AnchorsAliasesTagsAndMergeKeysAreRefused) {
  EXPECT_THAT(Load("data: &d {train: [a]}\nevaluation: *d\n"),
              ElementsAre(HasSubstr("job.yaml:1:7: error: anchors are not supported"),
                          HasSubstr("job.yaml:2:13: error: aliases are not supported")));
  EXPECT_THAT(Load("model: !!python/object:os.system x"),
              ElementsAre(HasSubstr("python/object:os.system is not supported")));
  EXPECT_THAT(Load("<<: {model: a}"), ElementsAre(HasSubstr("<<: unknown field")));
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c <= 'z'; ++c) {
    const std::string alias = absl::StrCat("*", std::string(1, static_cast<char>(c - 1)));
    absl::StrAppend(&bomb, std::string(1, c), ": &", std::string(1, c), " [", alias, ",", alias,
                    ",", alias, "]\n");
  }
  EXPECT_THAT(Load(bomb), Contains(HasSubstr("aliases are not supported")));
}

TEST(YamlLoaderTest, DepthSizeAndCountAreBounded) {
  EXPECT_THAT(Load(std::string(33, '[') + std::string(33, ']')),
              ElementsAre(HasSubstr("nested deeper than 32 levels")));
  EXPECT_THAT(Load(std::string(200'000, '[')), ElementsAre(HasSubstr("nested deeper")));
  EXPECT_THAT(Load(std::string(200'000, '{')), SizeIs(1));
  std::string block;
  for (int i = 0; i < 500; ++i) absl::StrAppend(&block, std::string(i, ' '), "a:\n");
  EXPECT_THAT(Load(block), ElementsAre(HasSubstr("nested deeper")));
  EXPECT_THAT(Load(std::string((1 << 20) + 1, ' ')), ElementsAre(HasSubstr("at most 1048576")));
  std::string wide = "data: {train: [";
  for (int i = 0; i < 100'001; ++i) wide += i % 100 == 0 ? "a,\n" : "a,";
  EXPECT_THAT(Load(wide + "]}"), ElementsAre(HasSubstr("more than 100000 values")));
  EXPECT_THAT(Load("model: " + std::string(100'000, 'm')),
              ElementsAre(HasSubstr("a line of more than 65536 bytes")));
  std::string unknown;
  for (int i = 0; i < 5'000; ++i) absl::StrAppend(&unknown, "k", i, ": 1\n");
  EXPECT_THAT(Load(unknown), SizeIs(100));
}

TEST(YamlLoaderTest, EncodingIsChecked) {
  EXPECT_THAT(Load("model: a\ndisplay_name: x\xff"),
              ElementsAre(HasSubstr("job.yaml:2:16: error: byte 0xff is not valid UTF-8")));
  for (const char* bad :
       {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xff\xfem\0o\0"}) {
    EXPECT_THAT(Load(absl::StrCat("model: ", bad)), ElementsAre(HasSubstr("is not valid UTF-8")));
  }
  EXPECT_THAT(Load(std::string("model: a\0b", 10)),
              ElementsAre(HasSubstr("control character 0x00")));
  EXPECT_THAT(Load("\xEF\xBB\xBFmodel: a"), IsEmpty());
  // Columns count characters, not bytes.
  EXPECT_THAT(Load("labels: {\"ключ\": 1, b: [2]}"),
              ElementsAre(HasSubstr("job.yaml:1:24: error: labels.b")));
}

TEST(YamlLoaderTest, TabsAndSeveralDocumentsAreRefused) {
  EXPECT_THAT(Load("training:\n\tepochs: 3\n"),
              ElementsAre("job.yaml:2:1: error: tab used as indentation (indent with spaces)"));
  EXPECT_THAT(Load("model: a\n---\nmodel: b\n"), ElementsAre(HasSubstr("several documents")));
  EXPECT_THAT(Load(""), ElementsAre("job.yaml: error: is empty"));
  EXPECT_THAT(Load("# only a comment\n"), SizeIs(1));
  EXPECT_THAT(Load("model: a\n---\n"), SizeIs(1));
  EXPECT_THAT(Load("model: \"unfinished\n"),
              ElementsAre(HasSubstr("job.yaml:1:8: error: the quote is never closed")));
  EXPECT_THAT(Load("model: 'it''s\n"), SizeIs(1));
  EXPECT_THAT(Load("? [a, b]\n: c\n"), ElementsAre(HasSubstr("a key must be a name")));
  EXPECT_THAT(Load("model: a: b"), ElementsAre(HasSubstr("job.yaml:1:")));
}

TEST(YamlLoaderTest, FilesAreReadAndNamed) {
  const std::filesystem::path path =
      std::filesystem::path(::testing::TempDir()) / "yaml_loader_test.yaml";
  std::ofstream(path) << "model: models/m\n";
  v1::JobSpec spec;
  EXPECT_THAT(LoadYamlFile(path.string(), &spec), IsEmpty());
  EXPECT_EQ(spec.model(), "models/m");
  std::filesystem::remove(path);
  const std::vector<v1::Issue> missing = LoadYamlFile(path.string(), &spec);
  ASSERT_THAT(missing, SizeIs(1));
  EXPECT_EQ(missing[0].file(), path.string());
  EXPECT_THAT(LoadYamlFile(::testing::TempDir(), &spec), SizeIs(1));
}

TEST(ApplyOverrideTest, SetsAnyField) {
  v1::JobSpec spec;
  ASSERT_THAT(Load("method: {lora: {rank: 4, target_modules: [a, b]}}\ndata: {train: [x]}", &spec),
              IsEmpty());
  EXPECT_THAT(ApplyOverride("training.epochs=2", &spec), IsEmpty());
  EXPECT_THAT(ApplyOverride("method.lora.target_modules=[q_proj]", &spec), IsEmpty());
  EXPECT_THAT(ApplyOverride("labels.team.name=a: b", &spec), IsEmpty());
  EXPECT_THAT(ApplyOverride("display_name=x=y", &spec), IsEmpty());
  EXPECT_THAT(ApplyOverride("data.over_length=drop", &spec), IsEmpty());
  EXPECT_EQ(spec.training().epochs(), 2);
  EXPECT_EQ(spec.method().lora().rank(), 4);
  EXPECT_THAT(spec.method().lora().target_modules(), ElementsAre("q_proj"));
  EXPECT_EQ(spec.labels().at("team.name"), "a: b");
  EXPECT_EQ(spec.display_name(), "x=y");
  EXPECT_EQ(spec.data().over_length(), v1::DataSpec::OVER_LENGTH_DROP);
  EXPECT_THAT(ApplyOverride("method.full={}", &spec), IsEmpty());
  EXPECT_TRUE(spec.method().has_full());
}

TEST(ApplyOverrideTest, ErrorsNameTheOverride) {
  const auto apply = [](const std::string& assignment) {
    v1::JobSpec spec;
    const std::vector<v1::Issue> issues = ApplyOverride(assignment, &spec);
    return issues.size() == 1 ? FormatIssue(issues[0]) : absl::StrCat(issues.size(), " issues");
  };
  EXPECT_EQ(apply("training.epoch=2"),
            "--set training.epoch=2: error: training.epoch: unknown field (did you mean epochs?)");
  EXPECT_THAT(apply("training.epochs=many"), HasSubstr("expected a whole number, not 'many'"));
  EXPECT_THAT(apply("model.x=1"), HasSubstr("model.x: unknown field"));
  EXPECT_THAT(apply("training.epochs="), HasSubstr("error"));
  EXPECT_THAT(apply("training.epochs=&a 3"), HasSubstr("anchors are not supported"));
  EXPECT_THAT(apply("=3"), HasSubstr("not of the form"));
  EXPECT_THAT(apply("epochs"), HasSubstr("not of the form"));
  EXPECT_THAT(apply(".=3"), HasSubstr("unknown field"));
}

TEST(LocateIssuesTest, PointsAtTheFieldOrTheNearestAroundIt) {
  v1::JobSpec spec;
  SourceMap positions;
  ASSERT_THAT(
      LoadYaml("model: m\ndata:\n  train:\n    - a\n    - b\n", "job.yaml", &spec, &positions),
      IsEmpty());
  std::vector<v1::Issue> issues(3);
  issues[0].set_field("data.train[1]");
  issues[1].set_field("data.max_length");
  issues[2].set_field("training.epochs");
  LocateIssues("job.yaml", positions, &issues);
  EXPECT_EQ(issues[0].line(), 5);
  EXPECT_EQ(issues[0].column(), 7);
  EXPECT_EQ(issues[1].line(), 2);
  EXPECT_EQ(issues[2].line(), 0);
  EXPECT_EQ(issues[2].file(), "job.yaml");
}

}  // namespace
}  // namespace anneal::spec
