#include "worker/trainer/checkpoint/checkpoint_files.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/storage/testing/faulty_file_system.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::DiskFault;
using ::anneal::testing::FaultyFileSystem;
using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kElements = 10;  // of the tensor "w", which two shards hold 6 and 4 of

std::string Read(const std::string& path) { return *ReadSmallFile(path, 1 << 20); }
void Write(const std::string& path, absl::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

class CheckpointFilesTest : public ::testing::Test {
 protected:
  CheckpointFilesTest() : folder_(dir_.path()) {
    std::iota(weights_.begin(), weights_.end(), 1.0f);
    std::iota(moments_.begin(), moments_.end(), 100.0f);
    Write(Path("growing"), "row 1\nrow 2\nrow 3\n");
    for (int shard = 0; shard < 2; ++shard) {
      const int64_t first = shard == 0 ? 0 : 6, elements = shard == 0 ? 6 : 4;
      manifest_.files.push_back(
          *WriteStateFile(FileSystem::Posix(), folder_, CheckpointStateName(shard, 2),
                          {{{StateKind::kValue, "w", first, elements},
                            absl::MakeConstSpan(weights_).subspan(first, elements)},
                           {{StateKind::kFirstMoment, "w", first, elements},
                            absl::MakeConstSpan(moments_).subspan(first, elements)}}));
    }
    manifest_.files.push_back(*WritePrefixOf(FileSystem::Posix(), folder_, kCheckpointLedgerName,
                                             Path("growing"), /*bytes=*/12));
    manifest_.files.push_back(
        *WriteTextFile(FileSystem::Posix(), folder_, kCheckpointHistoryName, "{}\n"));
    manifest_.job = "j-1";
    manifest_.generation = 2;
    manifest_.step = 3;
    manifest_.total_steps = 8;
    WriteManifest();
  }

  std::string Path(absl::string_view name) const { return absl::StrCat(folder_, "/", name); }
  std::string StatePath(int shard) const { return Path(CheckpointStateName(shard, 2)); }

  void WriteManifest() {
    const std::string text = FormatCheckpointManifest(manifest_);
    manifest_sha256_ = Sha256Hex(text);
    Write(Path(kCheckpointManifestName), text);
  }
  // A writer that went wrong: the state file is another, and the manifest has its hash.
  void ReplaceState(int shard, const std::string& bytes) {
    Write(StatePath(shard), bytes);
    manifest_.files[shard].sha256 = Sha256Hex(bytes);
    manifest_.files[shard].bytes = static_cast<int64_t>(bytes.size());
    WriteManifest();
  }

  absl::StatusOr<CheckpointReader> Open(const std::vector<StateRange>& ranges,
                                        bool with_records = true) const {
    return CheckpointReader::Open(folder_, manifest_sha256_, ranges, with_records);
  }

  testing::TempDir dir_;
  const std::string folder_;
  std::vector<float> weights_ = std::vector<float>(kElements);
  std::vector<float> moments_ = std::vector<float>(kElements);
  CheckpointManifest manifest_;
  std::string manifest_sha256_;
};

const StateRange kWhole = {StateKind::kValue, "w", 0, kElements};

TEST_F(CheckpointFilesTest, ReadersMayWantOtherPartsThanWritersHad) {
  const std::vector<StateRange> wanted = {{StateKind::kValue, "w", 4, 5},
                                          {StateKind::kFirstMoment, "w", 0, 3},
                                          {StateKind::kFirstMoment, "w", 3, 7},
                                          {StateKind::kValue, "w", 9, 1}};
  const auto reader = Open(wanted);
  ASSERT_THAT(reader, IsOk());
  EXPECT_EQ(reader->manifest().step, 3);
  std::vector<std::vector<float>> got;
  for (const StateRange& range : wanted) got.emplace_back(range.elements, -1.0f);
  ASSERT_THAT(reader->ReadState(wanted,
                                [&](size_t range, int64_t first, absl::Span<const float> part) {
                                  for (const float element : part) {
                                    EXPECT_EQ(got[range].at(first), -1.0f) << "taken twice";
                                    got[range].at(first++) = element;
                                  }
                                }),
              IsOk());
  EXPECT_THAT(got[0], ElementsAre(5, 6, 7, 8, 9));
  EXPECT_THAT(got[1], ElementsAre(100, 101, 102));
  EXPECT_THAT(got[2], ElementsAre(103, 104, 105, 106, 107, 108, 109));
  EXPECT_THAT(got[3], ElementsAre(10));
}

TEST_F(CheckpointFilesTest, EachFileIsListedAsItIs) {
  for (const CheckpointFile& file : manifest_.files) {
    EXPECT_EQ(file.sha256, Sha256Hex(Read(Path(file.name)))) << file.name;
    EXPECT_EQ(file.bytes, static_cast<int64_t>(Read(Path(file.name)).size())) << file.name;
  }
  const auto reader = Open({kWhole});
  ASSERT_THAT(reader, IsOk());
  EXPECT_EQ(Read(reader->ledger_path()), "row 1\nrow 2\n");
  EXPECT_EQ(*reader->ReadHistory(), "{}\n");
}

TEST_F(CheckpointFilesTest, AnyByteThatIsMissingOrChangedIsNoticed) {
  for (const CheckpointFile& file : manifest_.files) {
    const std::string path = Path(file.name), good = Read(path);
    for (size_t i = 0; i < good.size(); ++i) {
      Write(path, absl::string_view(good).substr(0, i));
      EXPECT_FALSE(Open({kWhole}).ok()) << file.name << " cut to " << i;
      std::string changed = good;
      changed[i] ^= 1;
      Write(path, changed);
      EXPECT_FALSE(Open({kWhole}).ok()) << file.name << " changed at " << i;
    }
    std::filesystem::remove(path);
    EXPECT_THAT(Open({kWhole}), StatusIs(absl::StatusCode::kNotFound, HasSubstr(file.name)));
    Write(path, good);
  }
  EXPECT_THAT(Open({kWhole}), IsOk()) << "as it was again";
  manifest_.step = 4;
  Write(Path(kCheckpointManifestName), FormatCheckpointManifest(manifest_));
  EXPECT_THAT(Open({kWhole}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("manifest.json")));
}

TEST_F(CheckpointFilesTest, OnlyWhatARankReadsHasToBeWhole) {
  std::string damaged = Read(StatePath(1));
  damaged.back() ^= 1;
  Write(StatePath(1), damaged);
  EXPECT_THAT(Open({{StateKind::kValue, "w", 0, 6}}), IsOk());
  EXPECT_THAT(Open({{StateKind::kValue, "w", 0, 7}}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(StatePath(1))));

  const std::vector<StateRange> first_shard = {{StateKind::kValue, "w", 0, 6}};
  std::filesystem::remove(Path(kCheckpointLedgerName));
  EXPECT_THAT(Open(first_shard, /*with_records=*/false), IsOk());
  EXPECT_THAT(Open(first_shard, /*with_records=*/true),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(kCheckpointLedgerName)));
  manifest_.files.erase(manifest_.files.begin() + 2);
  WriteManifest();
  EXPECT_THAT(Open(first_shard, /*with_records=*/true),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("has no ledger.jsonl")));
}

TEST_F(CheckpointFilesTest, RangesHaveToBeThereAsAWhole) {
  const std::pair<StateRange, const char*> cases[] = {
      {{StateKind::kValue, "w", 0, 11}, "holds 10 of 11 elements of value/w"},
      {{StateKind::kValue, "w", 10, 1}, "holds 0 of 1 elements of value/w"},
      {{StateKind::kSecondMoment, "w", 0, 1}, "holds 0 of 1 elements of second_moment/w"},
      {{StateKind::kValue, "v", 0, 1}, "holds 0 of 1 elements of value/v"},
  };
  for (const auto& [range, why] : cases) {
    EXPECT_THAT(Open({range}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(why)));
  }
}

TEST_F(CheckpointFilesTest, RefusesStateFilesThatDoNotSayWhatTheyHold) {
  const std::vector<TensorSpec> floats = {{"value/w", DType::kF32, {2}}};
  const std::string bytes(8, '\0');
  for (const char* first : {"", "-1", "one", "99999999999999999999", "1152921504606846976"}) {
    ReplaceState(0, SafetensorsHeader(floats, {{"value/w", first}}) + bytes);
    EXPECT_THAT(Open({kWhole}), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("does not say where value/w begins")))
        << first;
  }
  ReplaceState(0, SafetensorsHeader(floats, {}) + bytes);
  EXPECT_THAT(Open({kWhole}), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("does not say where value/w begins")));
  ReplaceState(0, SafetensorsHeader({{"value/w", DType::kBf16, {4}}}, {{"value/w", "0"}}) + bytes);
  EXPECT_THAT(Open({kWhole}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr(absl::StrCat(StatePath(0), ": value/w: holds BF16"))));
}

TEST_F(CheckpointFilesTest, FaultsOfTheDiskAreReported) {
  FaultyFileSystem disk(FileSystem::Posix());
  for (const DiskFault fault : {DiskFault::kFull, DiskFault::kSyncFails}) {
    disk.SetFault(fault);
    const std::vector<bool> succeeded = {
        WriteStateFile(disk, folder_, "state", {{kWhole, weights_}}).ok(),
        WriteTextFile(disk, folder_, "text", "text").ok(),
        WritePrefixOf(disk, folder_, "prefix", Path("growing"), 6).ok()};
    EXPECT_THAT(succeeded, Each(false));
  }
  disk.SetFault(DiskFault::kNone);
  EXPECT_THAT(WritePrefixOf(disk, folder_, "prefix", Path("growing"), 19),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("ends at 18 of 19 bytes")));
}

}  // namespace
}  // namespace anneal::trainer
