// Tokenizer, chat template and text model through the C++ face, on a tokenizer small enough to
// read. Equality with transformers on trained tokenizers is shown by
// worker/prepare/transformers_test.py, the Rust modules are tested in themselves.

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/text/text_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Words split at spaces; "<s>" and "</s>" are special, and a post-processor puts "<s>" in front.
constexpr absl::string_view kTokenizer = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
  "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
  "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 2, "hello": 3, "world": 4}, "unk_token": "[UNK]"}})";

TEST(TokenizerTest, EncodesWithByteRangesAndSpecialTokens) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto tokenizer, Tokenizer::FromJson(kTokenizer));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Encoding plain, tokenizer->Encode("é hello</s>", false));
  EXPECT_THAT(plain.ids, ElementsAre(0, 3, 2));
  EXPECT_THAT(plain.ranges, ElementsAre(TextRange{0, 2}, TextRange{3, 8}, TextRange{8, 12}));
  EXPECT_THAT(plain.special, ElementsAre(0, 0, 1));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Encoding with_bos, tokenizer->Encode("world", true));
  EXPECT_THAT(with_bos.ids, ElementsAre(1, 4));
  EXPECT_THAT(with_bos.ranges, ElementsAre(TextRange{0, 0}, TextRange{0, 5}));
  EXPECT_THAT(with_bos.special, ElementsAre(1, 0));
}

TEST(TokenizerTest, DecodesAndNamesTokens) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto tokenizer, Tokenizer::FromJson(kTokenizer));
  EXPECT_THAT(tokenizer->Decode({1, 3, 4}, true), IsOkAndHolds("hello world"));
  EXPECT_EQ(tokenizer->vocab_size(), 5);
  EXPECT_EQ(tokenizer->TokenToId("world"), 4);
  EXPECT_EQ(tokenizer->TokenToId("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(2), "</s>");
  EXPECT_EQ(tokenizer->IdToToken(-1), std::nullopt);
}

TEST(TokenizerTest, RefusesWhatIsNoTokenizerAndNoUtf8) {
  EXPECT_THAT(Tokenizer::FromJson("{}"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Tokenizer::FromJson(kTokenizer.substr(0, 500)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto tokenizer, Tokenizer::FromJson(kTokenizer));
  EXPECT_THAT(tokenizer->Encode("\xff", false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("invalid UTF-8")));
}

TEST(ChatTemplateTest, RendersAndTraces) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto chat_template,
      ChatTemplate::Compile(
          "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}",
          {{"eos_token", "</s>"}}, absl::UnixEpoch()));
  const Json messages = {{{"role", "user"}, {"content", "user"}},
                         {{"role", "assistant"}, {"content", "é"}}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(const RenderedChat rendered,
                              chat_template->Render(messages, nullptr, false));
  EXPECT_EQ(rendered.text, "[user]user</s>[assistant]é</s>");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Attribution attribution,
                              chat_template->Attribute(messages, nullptr, rendered.text));
  ASSERT_EQ(attribution.ranges.size(), 2u);
  EXPECT_EQ(attribution.ranges[1].range, (TextRange{25, 27}));
  EXPECT_EQ(attribution.ranges[1].message, 1);
  EXPECT_EQ(attribution.fields[attribution.ranges[1].field], "content");
}

TEST(ChatTemplateTest, HoldsTemplatesToTheirLimits) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto endless, ChatTemplate::Compile(
                        "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = i %}"
                        "{% endfor %}{% endfor %}",
                        Json::object(), absl::UnixEpoch()));
  EXPECT_THAT(endless->Render(Json::array(), nullptr, false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too much work")));
  EXPECT_THAT(ChatTemplate::Compile("{% if %}", Json::object(), absl::UnixEpoch()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 1")));
}

TEST(ChatTemplateTest, OneHandleServesSeveralThreads) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto tokenizer, Tokenizer::FromJson(kTokenizer));
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto chat_template,
      ChatTemplate::Compile("{{ messages[0].content }}", Json::object(), absl::UnixEpoch()));
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const auto rendered = chat_template->Render({{{"content", "hello world"}}}, nullptr, false);
        const auto encoded = tokenizer->Encode(rendered.value().text, false);
        equal[t] += encoded.value().ids == std::vector<int32_t>{3, 4};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(equal, ElementsAre(200, 200, 200, 200));
}

class TextModelTest : public ::testing::Test {
 protected:
  void SetUp() override { Write("tokenizer.json", kTokenizer); }
  void Write(const std::string& name, absl::string_view text) {
    std::ofstream(dir_.path() + "/" + name) << text;
  }
  absl::StatusOr<TextModel> Load(int64_t time = 0) {
    return LoadTextModel(dir_.path(), absl::FromUnixSeconds(time));
  }

  testing::TempDir dir_;
};

TEST_F(TextModelTest, ReadsSpecialTokensAndTemplateFromTheConfig) {
  Write("tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null,
      "image_token": "<image>", "add_bos_token": true, "chat_template": "{{ bos_token }}{{ messages[0].content }}"})");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const TextModel model, Load());
  EXPECT_EQ(DumpJson(model.special_tokens),
            R"({"bos_token":"<s>","eos_token":"</s>","image_token":"<image>"})");
  EXPECT_EQ(model.eos_token_id, 2);
  EXPECT_EQ(model.tokenizer->TokenToId("<image>"), 5)
      << "a special token that tokenizer.json lacks is added";
  ANNEAL_ASSERT_OK_AND_ASSIGN(const RenderedChat rendered,
                              model.chat_template->Render({{{"content", "x"}}}, nullptr, false));
  EXPECT_EQ(rendered.text, "<s>x");
}

TEST_F(TextModelTest, TheTemplateFileWinsAndOfNamedTemplatesTheDefault) {
  Write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]})");
  auto text = [](const absl::StatusOr<TextModel>& model) {
    return model->chat_template->Render(Json::array(), nullptr, false)->text;
  };
  EXPECT_EQ(text(Load()), "d");
  Write("chat_template.jinja", "file");
  EXPECT_EQ(text(Load()), "file");
}

TEST_F(TextModelTest, WithoutConfigThereIsNoTemplate) {
  Write("special_tokens_map.json", R"({"eos_token": "</s>"})");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const TextModel model, Load());
  EXPECT_EQ(model.chat_template, nullptr);
  EXPECT_EQ(model.eos_token, "</s>");
}

TEST_F(TextModelTest, TheFingerprintFollowsWhatMatters) {
  Write("chat_template.jinja", "{{ messages }}");
  const std::string plain = Load(1)->fingerprint;
  EXPECT_EQ(plain, Load(2)->fingerprint) << "this template never asks for the time";
  Write("chat_template.jinja", "{{ strftime_now('%Y') }}");
  EXPECT_NE(Load(1)->fingerprint, Load(2)->fingerprint);
  EXPECT_NE(Load(1)->fingerprint, plain);
}

TEST_F(TextModelTest, ErrorsNameTheFile) {
  Write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("tokenizer_config.json: chat template: syntax")));
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("none of the named templates")));
  Write("tokenizer_config.json", "[1]");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("tokenizer_config.json: not a JSON object")));
  Write("tokenizer.json", "{");
  std::filesystem::remove(dir_.path() + "/tokenizer_config.json");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokenizer.json")));
  std::filesystem::remove(dir_.path() + "/tokenizer.json");
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace anneal
