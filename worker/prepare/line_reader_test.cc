#include "worker/prepare/line_reader.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::prepare {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class LineReaderTest : public ::testing::Test {
 protected:
  std::vector<std::pair<int64_t, std::string>> Lines(const std::string& content,
                                                     size_t limit = 100) {
    const std::string path = dir_.path() + "/data.jsonl";
    std::ofstream(path, std::ios::binary) << content;
    auto reader = LineReader::Open(path, limit).value();
    std::vector<std::pair<int64_t, std::string>> lines;
    Line line;
    while (reader->Next(&line).value()) {
      lines.emplace_back(line.number, line.too_long ? "<too long>" : line.text);
    }
    EXPECT_EQ(reader->bytes(), static_cast<int64_t>(content.size()));
    EXPECT_EQ(reader->HexDigest(), Sha256Hex(content));
    return lines;
  }

  testing::TempDir dir_;
};

TEST_F(LineReaderTest, NumbersLinesAndPassesOverBlankOnes) {
  EXPECT_THAT(Lines("a\n\n  \t\nb\r\n\r\nc"),
              ElementsAre(Pair(1, "a"), Pair(4, "b"), Pair(6, "c")));
  EXPECT_THAT(Lines(""), IsEmpty());
  EXPECT_THAT(Lines("\n\n"), IsEmpty());
}

TEST_F(LineReaderTest, KeepsNulBytesForTheParserToRefuse) {
  EXPECT_THAT(Lines(std::string("a\0b\n", 4)), ElementsAre(Pair(1, std::string("a\0b", 3))));
}

TEST_F(LineReaderTest, PassesOverWhatIsTooLongAndGoesOn) {
  // Longer than the reader's buffer, so that the line comes in pieces.
  const std::string huge(1 << 20, 'x');
  EXPECT_THAT(Lines("a\n" + huge + "\nb\n"),
              ElementsAre(Pair(1, "a"), Pair(2, "<too long>"), Pair(3, "b")));
  EXPECT_THAT(Lines(std::string(100, 'x') + "\n"), ElementsAre(Pair(1, std::string(100, 'x'))));
  EXPECT_THAT(Lines(std::string(101, 'x')), ElementsAre(Pair(1, "<too long>")));
}

TEST_F(LineReaderTest, JoinsLinesAcrossItsBuffer) {
  std::string content;
  for (int i = 0; i < 50'000; ++i) content += "line " + std::to_string(i) + "\n";
  const auto lines = Lines(content);
  ASSERT_EQ(lines.size(), 50'000u);
  for (int i = 0; i < 50'000; ++i) {
    ASSERT_EQ(lines[i], (std::pair<int64_t, std::string>(i + 1, "line " + std::to_string(i))));
  }
}

TEST_F(LineReaderTest, AFileThatBecameALinkOrAPipeIsRefusedByName) {
  const std::string path = dir_.path() + "/data.jsonl", rooted = dir_.path() + "/./data.jsonl";
  std::ofstream(path) << "{}\n";
  EXPECT_TRUE(LineReader::Open(rooted, 10).ok());
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/etc/passwd", path);
  EXPECT_TRUE(LineReader::Open(path, 10).ok()) << "nobody has confined it";
  EXPECT_THAT(LineReader::Open(rooted, 10),
              StatusIs(absl::StatusCode::kPermissionDenied, ::testing::HasSubstr(path)));
  std::filesystem::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  for (const std::string& either : {path, rooted}) {
    EXPECT_THAT(LineReader::Open(either, 10),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         ::testing::HasSubstr(path + " is not a regular file")));
  }
}

TEST_F(LineReaderTest, SaysWhichFileIsMissing) {
  EXPECT_THAT(LineReader::Open(dir_.path() + "/none", 10),
              StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr("/none")));
}

}  // namespace
}  // namespace anneal::prepare
