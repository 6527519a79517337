#include "worker/trainer/data/ledger.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "common/base/status_matchers.h"
#include "common/format/json.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

const LedgerEntry kEntry{.step = 3,
                         .rows = {{4, 10}, {}, {2}, {9}},
                         .supervised_tokens = 33,
                         .loss = 0.1,
                         .learning_rate = 2e-4,
                         .grad_norm = 1.0 / 3};

TEST(LedgerTest, Golden) {
  EXPECT_EQ(
      FormatLedgerLine(kEntry),
      R"({"step":3,"rows":[[4,10],[],[2],[9]],"supervised_tokens":33,"loss":0.1,"learning_rate":0.0002,)"
      R"("grad_norm":0.3333333333333333})");
}

TEST(LedgerTest, DoublesComeBackWithTheSameBits) {
  for (double value : {1.0 / 3, 2.2250738585072014e-308, std::numeric_limits<double>::denorm_min(),
                       1e300, std::nextafter(5.0, 6.0), 0.0}) {
    LedgerEntry entry = kEntry;
    entry.loss = value;
    ANNEAL_ASSERT_OK_AND_ASSIGN(Json json, ParseJson(FormatLedgerLine(entry)));
    EXPECT_EQ(json["loss"].get<double>(), value);
  }
}

TEST(LedgerTest, GoesOnAfterWhatIsInTheFile) {
  const std::string path = ::testing::TempDir() + "ledger_test.jsonl";
  std::ofstream(path) << "before\n";
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, LedgerWriter::Open(path));
    EXPECT_THAT(writer->Append(kEntry), IsOk());
    EXPECT_THAT(writer->Append(kEntry), IsOk());
    EXPECT_EQ(writer->bytes(), std::filesystem::file_size(path));
  }
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  const std::string line = FormatLedgerLine(kEntry) + "\n";
  EXPECT_EQ(text.str(), "before\n" + line + line);
  std::filesystem::remove(path);
}

TEST(LedgerTest, SaysWhereItCouldNotWrite) {
  EXPECT_THAT(LedgerWriter::Open("/nonexistent/ledger.jsonl"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/ledger.jsonl")));
}

}  // namespace
}  // namespace anneal::trainer
