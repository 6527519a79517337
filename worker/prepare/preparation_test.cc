// Whole preparations on a tokenizer of words. What transformers makes of real tokenizers and
// templates is in transformers_test.py.

#include "worker/prepare/preparation.h"

#include <filesystem>
#include <fstream>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/prepared_dataset.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/prepare/row.h"

namespace anneal::prepare {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr absl::string_view kTokenizer = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 2, "user": 3, "assistant": 4, "a": 5, "b": 6, "c": 7, "d": 8, "e": 9}}})";
constexpr absl::string_view kConfig = R"({"bos_token": "<s>", "eos_token": "</s>", "chat_template":
    "{% for m in messages if m.role != 'system' %}{{ '<s>' + m.role + ' ' + m.content + '</s>' }}{% endfor %}"})";

std::string Chat(const std::string& question, const std::string& answer) {
  return R"({"messages": [{"role": "user", "content": ")" + question +
         R"("}, {"role": "assistant", "content": ")" + answer + "\"}]}\n";
}
std::string Text(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }

class PreparationTest : public ::testing::Test {
 protected:
  PreparationTest() {
    std::filesystem::create_directory(Path("model"));
    Write("model/tokenizer.json", kTokenizer);
    Write("model/tokenizer_config.json", kConfig);
    Write("model/config.json", R"({"vocab_size": 10})");
    task_.job = "01hf7yat00abcdefghjkmnpqrs";
    task_.model_dir = Path("model");
    task_.output_dir = Path("out");
    task_.max_length = 16;
  }
  std::string Path(const std::string& name) const { return dir_.path() + "/" + name; }
  void Write(const std::string& name, absl::string_view text) {
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  void AddTraining(const std::string& name, absl::string_view text) {
    Write(name, text);
    task_.train_files.push_back({Path(name), name});
  }
  void AddValidation(const std::string& name, absl::string_view text) {
    Write(name, text);
    task_.validation_files.push_back({Path(name), name});
  }
  protocol::PreparedReport Run() {
    absl::StatusOr<Prepared> prepared = Prepare(task_);
    if (!prepared.ok()) {
      ADD_FAILURE() << prepared.status();
      return {};
    }
    return prepared->report;
  }
  // "file:line code field" of each issue.
  static std::vector<std::string> Places(const protocol::PreparedReport& report) {
    std::vector<std::string> places;
    for (const Issue& issue : report.issues) {
      places.push_back(issue.file + ":" + std::to_string(issue.line) + " " + issue.code +
                       (issue.field.empty() ? "" : " " + issue.field));
    }
    return places;
  }

  testing::TempDir dir_;
  protocol::PrepareTask task_;
};

TEST_F(PreparationTest, WritesIdsWeightsAndSources) {
  AddTraining("a.jsonl", Chat("a b", "c") + "\n" + Text("d e"));
  AddTraining("b.jsonl", "{\"prompt\": \"a \", \"completion\": \"b\"}\n");
  const protocol::PreparedReport report = Run();
  EXPECT_EQ(report.train_rows, 3);
  EXPECT_EQ(report.train_tokens, 9 + 3 + 3);
  EXPECT_EQ(report.error_count, 0);
  EXPECT_EQ(report.train_data, Path("out/train.safetensors"));
  EXPECT_EQ(report.validation_data, "");
  EXPECT_FALSE(std::filesystem::exists(Path("out/validation.safetensors")));

  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto dataset, PreparedDataset::Open(report.train_data));
  EXPECT_EQ(dataset->info().vocab_size, 10);
  EXPECT_EQ(dataset->info().max_length, 16);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const PreparedExample chat, dataset->Example(0));
  EXPECT_THAT(chat.token_ids, ElementsAre(1, 3, 5, 6, 2, 1, 4, 7, 2));
  EXPECT_THAT(chat.loss_weight, ElementsAre(0, 0, 0, 0, 0, 0, 0, 1, 1));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const PreparedExample text, dataset->Example(1));
  EXPECT_THAT(text.token_ids, ElementsAre(8, 9, 2));
  EXPECT_THAT(text.loss_weight, ElementsAre(0, 1, 1));
  EXPECT_EQ(text.source_row, 1) << "the blank line is no row";
  ANNEAL_ASSERT_OK_AND_ASSIGN(const PreparedExample pair, dataset->Example(2));
  EXPECT_THAT(pair.token_ids, ElementsAre(5, 6, 2));
  EXPECT_THAT(pair.loss_weight, ElementsAre(0, 1, 1));
  EXPECT_EQ(pair.source_file, 1);
}

TEST_F(PreparationTest, NamesEveryBadRowAndLeavesTheReportAlone) {
  AddTraining("a.jsonl", Chat("a", "b") + "{\n" + Text("a b") + "{\"text\": 1}\n[]\n" +
                             Chat("a", "") +
                             "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n" +
                             Text("a a a a a a a a a a a a a a a a a") +
                             std::string("{\"text\": \"\xff\"}\n"));
  AddValidation("v.jsonl", "{\"text\": \"a b\", \"text\": \"c\"}\n");
  const protocol::PreparedReport report = Run();
  EXPECT_THAT(
      Places(report),
      ElementsAre("a.jsonl:2 ROW_NOT_JSON", "a.jsonl:4 WRONG_TYPE text", "a.jsonl:5 ROW_NOT_JSON",
                  "a.jsonl:6 EMPTY_TEXT messages[1].content", "a.jsonl:7 NOTHING_TO_LEARN",
                  "a.jsonl:8 ROW_TOO_LONG", "a.jsonl:9 ROW_NOT_JSON", "v.jsonl:1 ROW_NOT_JSON"));
  EXPECT_EQ(report.error_count, 8);
  EXPECT_EQ(report.train_data, "");
  EXPECT_EQ(report.data_report, Path("out/data_report.json"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Json written, ReadJsonFile(report.data_report));
  EXPECT_EQ(written["issues"].size(), 8u);
  EXPECT_EQ(written["errors_by_code"]["ROW_NOT_JSON"], 4);
  const std::filesystem::directory_iterator entries(Path("out"));
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << "no data set beside the report";
}

TEST_F(PreparationTest, TheReportListsMoreThanGoesUp) {
  std::string rows;
  for (int i = 0; i < 250; ++i) rows += "{}\n";
  AddTraining("a.jsonl", rows);
  const protocol::PreparedReport report = Run();
  EXPECT_EQ(report.error_count, 250);
  EXPECT_THAT(report.issues, SizeIs(100));
  EXPECT_EQ(ReadJsonFile(report.data_report).value()["issues"].size(), 250u);
}

TEST_F(PreparationTest, LongRowsAreRefusedCutOrDropped) {
  task_.max_length = 4;
  AddTraining("a.jsonl", Text("a b c d e") + Text("a b"));
  EXPECT_THAT(Places(Run()), ElementsAre("a.jsonl:1 ROW_TOO_LONG"));

  task_.over_length = "TRUNCATE";
  protocol::PreparedReport report = Run();
  EXPECT_EQ(report.truncated_rows, 1);
  EXPECT_EQ(report.train_tokens, 4 + 3);
  EXPECT_THAT(Places(report), ElementsAre("a.jsonl:1 ROW_TRUNCATED"));

  task_.over_length = "DROP";
  report = Run();
  EXPECT_EQ(report.dropped_rows, 1);
  EXPECT_EQ(report.train_rows, 1);

  task_.max_length = 2;
  EXPECT_THAT(Places(Run()), ElementsAre(":0 NO_ROWS", "a.jsonl:1 ROW_DROPPED"))
      << "nothing is left";
}

TEST_F(PreparationTest, CuttingAwayAllThatCountsIsAnError) {
  task_.max_length = 4;
  task_.over_length = "TRUNCATE";
  AddTraining("a.jsonl", Chat("a b c d", "e"));
  EXPECT_THAT(Places(Run()), ElementsAre("a.jsonl:1 NOTHING_TO_LEARN"));
}

TEST_F(PreparationTest, FindsRepeatedAndLeakedRows) {
  AddTraining("a.jsonl", Text("a b") + Text("c") + Text("a  b") + Text("a b"));
  AddValidation("v.jsonl", Text("d") + Text(" c"));
  const protocol::PreparedReport report = Run();
  EXPECT_EQ(report.duplicate_rows, 2);
  EXPECT_EQ(report.leaked_rows, 1);
  EXPECT_EQ(report.validation_rows, 2);
  EXPECT_EQ(report.warning_count, 2);
  ASSERT_THAT(Places(report), ElementsAre("a.jsonl:3 DUPLICATE_ROW", "v.jsonl:2 LEAKED_ROW"));
  EXPECT_THAT(report.issues[0].message,
              HasSubstr("the same as line 1 of a.jsonl (and so in 1 more rows)"));
  EXPECT_THAT(report.issues[1].message, HasSubstr("line 2 of a.jsonl"));
}

TEST_F(PreparationTest, HoldsOutRowsBySeed) {
  std::string rows;
  for (const char* first : {"a", "b", "c", "d", "e"}) {
    for (const char* second : {"a", "b", "c", "d", "e"}) {
      for (const char* third : {"a", "b", "c", "d"}) {
        rows += Chat(first, std::string(second) + " " + third);
      }
    }
  }
  AddTraining("a.jsonl", rows);
  task_.validation_fraction = 0.05;
  task_.validation_is_default = true;
  const auto bytes = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const protocol::PreparedReport report = Run();
  EXPECT_EQ(report.train_rows, 90);
  EXPECT_EQ(report.validation_rows, 10);
  EXPECT_EQ(report.leaked_rows, 0);
  const std::string first = bytes(report.validation_data);
  EXPECT_EQ(bytes(Run().validation_data), first);
  task_.seed = 1;
  EXPECT_NE(bytes(Run().validation_data), first);
}

TEST_F(PreparationTest, TooFewRowsForAValidationSetIsAWarning) {
  AddTraining("a.jsonl", Text("a b"));
  task_.validation_fraction = 0.05;
  task_.validation_is_default = true;
  const protocol::PreparedReport report = Run();
  EXPECT_EQ(report.validation_rows, 0);
  ASSERT_THAT(Places(report), ElementsAre(":0 NO_VALIDATION"));
  EXPECT_THAT(report.issues[0].hint, HasSubstr("set data.validation.fraction"));
  task_.validation_is_default = false;
  task_.min_validation_rows = 0;
  EXPECT_THAT(Run().issues.at(0).hint, HasSubstr("a larger data.validation.fraction"));
}

TEST_F(PreparationTest, WarnsOfMessagesTheTemplateLeavesOut) {
  AddTraining(
      "a.jsonl",
      R"({"messages": [{"role": "system", "content": "c"}, {"role": "user", "content": "a"},)"
      R"( {"role": "assistant", "content": "b"}]})");
  EXPECT_THAT(Places(Run()), ElementsAre("a.jsonl:1 MESSAGE_NOT_SHOWN messages[0]"));
}

TEST_F(PreparationTest, RefusesTokensTheModelDoesNotHave) {
  Write("model/config.json", R"({"vocab_size": 9})");
  AddTraining("a.jsonl", Text("a d") + Text("a e"));
  EXPECT_THAT(Places(Run()), ElementsAre("a.jsonl:2 TOKEN_OUTSIDE_MODEL"));
}

TEST_F(PreparationTest, ModelsWithoutTemplateOrEndTokenAreNamed) {
  Write("model/tokenizer_config.json", "{}");
  AddTraining("a.jsonl", Chat("a", "b") + Text("a"));
  EXPECT_THAT(Places(Run()),
              ElementsAre("a.jsonl:1 NO_CHAT_TEMPLATE messages", "a.jsonl:2 NO_END_TOKEN"));
}

TEST_F(PreparationTest, EqualContentComesFromTheCache) {
  task_.cache_dir = Path("cache");
  AddTraining("a.jsonl", Text("a b") + Text("a b"));
  const protocol::PreparedReport first = Run();
  EXPECT_FALSE(first.from_cache);
  task_.output_dir = Path("again");
  task_.generation = 2;
  task_.template_time_unix_seconds = 99;  // the template never asks for the time
  task_.threads = 3;
  protocol::PreparedReport second = Run();
  EXPECT_TRUE(second.from_cache);
  EXPECT_EQ(second.train_data, Path("again/train.safetensors"));
  EXPECT_EQ(second.duplicate_rows, 1);
  EXPECT_EQ(second.issues.size(), 1u);
  ANNEAL_EXPECT_OK(PreparedDataset::Open(second.train_data));

  task_.max_length = 8;
  EXPECT_FALSE(Run().from_cache);
}

TEST_F(PreparationTest, ADamagedCacheIsReplaced) {
  task_.cache_dir = Path("cache");
  AddTraining("a.jsonl", Text("a b"));
  Run();
  for (const auto& entry : std::filesystem::directory_iterator(Path("cache"))) {
    std::filesystem::remove(entry.path() /
                            "train.safetensors");  // a hard link: the first output keeps its bytes
    std::ofstream(entry.path() / "train.safetensors") << "not a data set";
  }
  const protocol::PreparedReport report = Run();
  EXPECT_FALSE(report.from_cache);
  ANNEAL_EXPECT_OK(PreparedDataset::Open(report.train_data));
  EXPECT_TRUE(Run().from_cache);
}

TEST_F(PreparationTest, CheckingWritesNothing) {
  AddTraining("a.jsonl", Text("a b"));
  task_.output_dir = "";
  const protocol::PreparedReport report = Run();
  EXPECT_EQ(report.train_rows, 1);
  EXPECT_EQ(report.train_data, "");
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
}

TEST_F(PreparationTest, StopsWhenToldAndLeavesNothing) {
  AddTraining("a.jsonl", Text("a b"));
  bool tokenising = false;
  const PrepareHooks hooks = {.on_phase =
                                  [&](const std::string& phase) {
                                    tokenising =
                                        tokenising || phase.find("reading") != std::string::npos;
                                  },
                              .stop_requested = [&] { return tokenising; }};
  EXPECT_THAT(Prepare(task_, hooks), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
}

TEST_F(PreparationTest, RefusesTasksThatMakeNoSense) {
  EXPECT_THAT(Prepare(task_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no training files")));
  AddTraining("a.jsonl", "\n\n");
  EXPECT_THAT(Places(Run()), ElementsAre("a.jsonl:0 NO_ROWS"));
  task_.train_on = "NOTHING";
  EXPECT_THAT(Prepare(task_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("train_on is \"NOTHING\"")));
  task_.train_on = "ALL";
  task_.validation_fraction = 1;
  EXPECT_THAT(Prepare(task_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("validation_fraction")));
  task_.validation_fraction = 0;
  task_.train_files = {{Path("missing.jsonl"), ""}};
  EXPECT_THAT(Prepare(task_), StatusIs(absl::StatusCode::kNotFound, HasSubstr("missing.jsonl")));
  task_.model_dir = Path("nowhere");
  EXPECT_THAT(Prepare(task_), StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer.json")));
}

}  // namespace
}  // namespace anneal::prepare
