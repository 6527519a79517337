#include "common/format/prepared_dataset.h"

#include <filesystem>
#include <fstream>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PreparedDatasetTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return dir_.path() + "/" + name; }
  absl::Status Add(PreparedDatasetWriter& writer, std::vector<int32_t> ids,
                   std::vector<uint8_t> weights) {
    return writer.Add(
        {.token_ids = ids, .loss_weight = weights, .source_file = 1, .source_row = next_row_++});
  }
  // Two rows: 3 and 5 tokens, 1 and 4 of them supervised.
  std::string WriteSmall() {
    const std::string path = Path("small.safetensors");
    auto writer = PreparedDatasetWriter::Create(
        path, {.content_key = "abc", .vocab_size = 10, .max_length = 8});
    EXPECT_TRUE(writer.ok());
    EXPECT_TRUE(Add(**writer, {1, 2, 3}, {0, 0, 1}).ok());
    EXPECT_TRUE(Add(**writer, {4, 5, 6, 7, 9}, {0, 1, 1, 1, 1}).ok());
    EXPECT_TRUE((*writer)->Finish().ok());
    return path;
  }
  // The small file with arrays or metadata changed, written as any other program could.
  struct Parts {
    std::vector<int64_t> offsets = {0, 3, 8};
    std::vector<int64_t> source_row = {0, 1};
    std::vector<int32_t> source_file = {1, 1};
    std::vector<int32_t> supervised = {1, 4};
    std::vector<int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 9};
    std::vector<uint8_t> weights = {0, 0, 1, 0, 1, 1, 1, 1};
    std::map<std::string, std::string> metadata = {{"format", "anneal.prepared_dataset"},
                                                   {"version", "1"},
                                                   {"content_key", "abc"},
                                                   {"vocab_size", "10"},
                                                   {"max_length", "8"},
                                                   {"examples", "2"},
                                                   {"tokens", "8"},
                                                   {"supervised_tokens", "5"},
                                                   {"longest_example", "5"}};
  };
  std::string Write(const Parts& parts) {
    const std::string path = Path("parts.safetensors");
    auto size = [](const auto& values) {
      return std::vector<int64_t>{static_cast<int64_t>(values.size())};
    };
    auto writer =
        SafetensorsWriter::Create(path,
                                  {{"example_offsets", DType::kI64, size(parts.offsets)},
                                   {"source_row", DType::kI64, size(parts.source_row)},
                                   {"source_file", DType::kI32, size(parts.source_file)},
                                   {"supervised_tokens", DType::kI32, size(parts.supervised)},
                                   {"token_ids", DType::kI32, size(parts.ids)},
                                   {"loss_weight", DType::kU8, size(parts.weights)}},
                                  parts.metadata, 64);
    ANNEAL_CHECK_OK(writer.status());
    ANNEAL_CHECK_OK((*writer)->Append("example_offsets", absl::MakeConstSpan(parts.offsets)));
    ANNEAL_CHECK_OK((*writer)->Append("source_row", absl::MakeConstSpan(parts.source_row)));
    ANNEAL_CHECK_OK((*writer)->Append("source_file", absl::MakeConstSpan(parts.source_file)));
    ANNEAL_CHECK_OK((*writer)->Append("supervised_tokens", absl::MakeConstSpan(parts.supervised)));
    ANNEAL_CHECK_OK((*writer)->Append("token_ids", absl::MakeConstSpan(parts.ids)));
    ANNEAL_CHECK_OK((*writer)->Append("loss_weight", absl::MakeConstSpan(parts.weights)));
    ANNEAL_CHECK_OK((*writer)->Finish());
    return path;
  }
  void ExpectRefused(const Parts& parts, const std::string& why) {
    EXPECT_THAT(PreparedDataset::Open(Write(parts)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)));
  }

  testing::TempDir dir_;
  int64_t next_row_ = 0;
};

TEST_F(PreparedDatasetTest, ReadsWhatItWrote) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto dataset, PreparedDataset::Open(WriteSmall()));
  EXPECT_EQ(dataset->size(), 2);
  EXPECT_EQ(dataset->info().content_key, "abc");
  EXPECT_EQ(dataset->info().tokens, 8);
  EXPECT_EQ(dataset->info().supervised_tokens, 5);
  EXPECT_EQ(dataset->info().longest_example, 5);
  EXPECT_EQ(dataset->supervised_tokens(1), 4);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const PreparedExample row, dataset->Example(1));
  EXPECT_THAT(row.token_ids, ElementsAre(4, 5, 6, 7, 9));
  EXPECT_THAT(row.loss_weight, ElementsAre(0, 1, 1, 1, 1));
  EXPECT_EQ(row.source_file, 1);
  EXPECT_EQ(row.source_row, 1);
}

TEST_F(PreparedDatasetTest, ArraysStartAtMultiplesOf64Bytes) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto file, SafetensorsFile::Open(WriteSmall()));
  for (const char* name : {"example_offsets", "source_row", "source_file", "supervised_tokens",
                           "token_ids", "loss_weight"}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const TensorView* tensor, file->Find(name));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->bytes.data()) % 64, 0u) << name;
  }
}

TEST_F(PreparedDatasetTest, TheSameRowsGiveTheSameBytesAndNoTemporariesStay) {
  auto bytes = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string first = bytes(WriteSmall());
  next_row_ = 0;
  EXPECT_EQ(first, bytes(WriteSmall()));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_.path()), {}), 1);
}

TEST_F(PreparedDatasetTest, WriterRefusesRowsThatBreakTheFormat) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto writer, PreparedDatasetWriter::Create(
                       Path("x"), {.content_key = "k", .vocab_size = 10, .max_length = 3}));
  EXPECT_THAT(Add(*writer, {}, {}), StatusIs(absl::StatusCode::kInvalidArgument, "no tokens"));
  EXPECT_THAT(Add(*writer, {1, 10}, {0, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token id 10")));
  EXPECT_THAT(Add(*writer, {1, -1}, {0, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token id -1")));
  EXPECT_THAT(Add(*writer, {1, 2}, {1, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("first token")));
  EXPECT_THAT(Add(*writer, {1, 2}, {0, 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("neither 0 nor 1")));
  EXPECT_THAT(Add(*writer, {1, 2}, {0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no token counts")));
  EXPECT_THAT(Add(*writer, {1, 2}, {0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 weights for 2")));
  EXPECT_THAT(Add(*writer, {1, 2, 3, 4}, {0, 1, 1, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("over max_length 3")));
  EXPECT_THAT(writer->Finish(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no rows")));
  EXPECT_FALSE(std::filesystem::exists(Path("x")));
}

TEST_F(PreparedDatasetTest, PartsAreReadableWhenUnchanged) {
  ANNEAL_EXPECT_OK(PreparedDataset::Open(Write({})));
}

TEST_F(PreparedDatasetTest, OpenRefusesOffsetsThatDoNotTileTheTokens) {
  ExpectRefused({.offsets = {1, 3, 8}}, "example_offsets run from 1 to 8");
  ExpectRefused({.offsets = {0, 3, 7}}, "example_offsets run from 0 to 7");
  ExpectRefused({.offsets = {0, 9, 8}}, "example 0 goes from token 0 to 9");
  ExpectRefused({.offsets = {0, -9'223'372'036'854'775'807 - 1, 8}}, "example 0 goes from token 0");
  ExpectRefused({.offsets = {0, 8, 8}}, "example 1 goes from token 8 to 8");
}

TEST_F(PreparedDatasetTest, OpenRefusesArraysThatDisagreeWithTheMetadata) {
  ExpectRefused({.source_row = {0}}, "source_row has shape [1], not [2]");
  ExpectRefused({.source_row = {0, -1}}, "negative source");
  ExpectRefused({.supervised = {0, 4}}, "example 0 has 0 supervised tokens");
  ExpectRefused({.supervised = {3, 4}}, "example 0 has 3 supervised tokens of 3");
  ExpectRefused({.supervised = {2, 4}}, "6 tokens are supervised");
  auto with = [](const std::string& key, const std::string& value) {
    Parts parts;
    parts.metadata[key] = value;
    return parts;
  };
  ExpectRefused(with("version", "2"), "version 2");
  ExpectRefused(with("examples", "9223372036854775807"), "overflow");
  ExpectRefused(with("examples", "3"), "example_offsets has shape [3], not [4]");
  ExpectRefused(with("tokens", "-8"), "tokens is not a positive number: -8");
  ExpectRefused(with("longest_example", "4"), "the longest example has 5 tokens");
  ExpectRefused(with("max_length", "4"), "max_length 4");
  Parts parts;
  parts.metadata.erase("content_key");
  ExpectRefused(parts, "no metadata \"content_key\"");
}

TEST_F(PreparedDatasetTest, ExampleRefusesIdsAndWeightsOfItsRowOnly) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto bad_id,
                              PreparedDataset::Open(Write({.ids = {1, 2, 3, 4, 5, 6, 7, 10}})));
  ANNEAL_EXPECT_OK(bad_id->Example(0));
  EXPECT_THAT(bad_id->Example(1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("example 1: token id 10")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto bad_sum,
                              PreparedDataset::Open(Write({.weights = {0, 0, 1, 0, 1, 1, 1, 0}})));
  EXPECT_THAT(bad_sum->Example(1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("add up to 3, not 4")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto bad_first,
                              PreparedDataset::Open(Write({.weights = {1, 0, 0, 0, 1, 1, 1, 1}})));
  EXPECT_THAT(bad_first->Example(0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("first token")));
}

TEST_F(PreparedDatasetTest, ACutFileIsRefusedAtEveryLength) {
  const std::string whole = WriteSmall();
  const auto size = std::filesystem::file_size(whole);
  for (size_t kept = 0; kept < size; kept += 13) {
    std::filesystem::copy_file(whole, Path("cut"),
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(Path("cut"), kept);
    EXPECT_FALSE(PreparedDataset::Open(Path("cut")).ok()) << kept;
  }
  EXPECT_THAT(PreparedDataset::Open(Path("absent")), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace anneal
