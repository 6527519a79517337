#include "common/format/checkpoint_manifest.h"

#include "absl/strings/str_replace.h"
#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

CheckpointManifest Example() {
  return {.job = "01hf7yat00abcdefghjkmnpqrs",
          .generation = 3,
          .step = 40,
          .total_steps = 100,
          .numeric_fingerprint = "cpu AVX2",
          .files = {{CheckpointStateName(1, 4), 1'000, std::string(64, 'a')},
                    {kCheckpointLedgerName, 0, std::string(64, '0')}}};
}

TEST(CheckpointManifestTest, SurvivesTheRoundTrip) {
  const CheckpointManifest example = Example();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const CheckpointManifest back,
                              ParseCheckpointManifest(FormatCheckpointManifest(example)));
  EXPECT_EQ(back.job, example.job);
  EXPECT_EQ(back.generation, 3);
  EXPECT_EQ(back.step, 40);
  EXPECT_EQ(back.total_steps, 100);
  EXPECT_EQ(back.numeric_fingerprint, "cpu AVX2");
  EXPECT_EQ(back.files, example.files);
  EXPECT_EQ(back.files[0].name, "state-00001-of-00004.safetensors");
}

TEST(CheckpointManifestTest, RefusesWhatIsWrongByName) {
  const std::string good = FormatCheckpointManifest(Example());
  const auto parse = [&](const char* from, const char* to) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    EXPECT_NE(bad, good) << from;
    return ParseCheckpointManifest(bad).status();
  };
  EXPECT_THAT(parse("\"version\":1", "\"version\":2"), StatusIs(kInvalid, HasSubstr("version")));
  EXPECT_THAT(parse("\"step\":40", "\"step\":-1"), StatusIs(kInvalid, HasSubstr("step")));
  EXPECT_THAT(parse("\"step\":40", "\"step\":101"), StatusIs(kInvalid, HasSubstr("step")));
  EXPECT_THAT(parse("\"bytes\":1000", "\"bytes\":1.5"), StatusIs(kInvalid, HasSubstr("bytes")));
  EXPECT_THAT(parse("\"bytes\":1000", "\"bytes\":18446744073709551615"),
              StatusIs(kInvalid, HasSubstr("bytes")));
  EXPECT_THAT(parse("aaaaaaaa", "AAAAAAAA"), StatusIs(kInvalid, HasSubstr("sha256")));
  EXPECT_THAT(parse("ledger.jsonl", "../ledger"), StatusIs(kInvalid, HasSubstr("name")));
  EXPECT_THAT(parse("ledger.jsonl", "manifest.json"), StatusIs(kInvalid, HasSubstr("name")));
  EXPECT_THAT(parse("ledger.jsonl", "state-00001-of-00004.safetensors"),
              StatusIs(kInvalid, HasSubstr("repetition")));
  EXPECT_THAT(parse("\"files\":[", "\"files\":[3,"), StatusIs(kInvalid, HasSubstr("files")));
  EXPECT_THAT(ParseCheckpointManifest(good.substr(0, good.size() / 2)), StatusIs(kInvalid));
  EXPECT_THAT(ParseCheckpointManifest("[]"), StatusIs(kInvalid));
}

}  // namespace
}  // namespace anneal
