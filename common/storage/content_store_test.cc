#include "common/storage/content_store.h"

#include <cstdlib>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/storage/layout.h"
#include "common/storage/testing/faulty_file_system.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

class ContentStoreTest : public ::testing::Test {
 protected:
  ContentStoreTest() { root_ = *StorageRoot::Open(folder_, faulty_, clock_, random_); }

  absl::StatusOr<std::string> Blob(const std::string& sha256) {
    ANNEAL_ASSIGN_OR_RETURN(auto file, ContentStore(*root_).OpenBlob(sha256));
    return file->ReadAt(0, 1 << 20);
  }

  const std::string content_ = "hello content-addressed world";
  const BlobSpec spec_ = {static_cast<int64_t>(content_.size()), Sha256Hex(content_)};
  const testing::TempDir temp_;
  const std::string folder_ = temp_.path();
  testing::FaultyFileSystem faulty_{FileSystem::Posix()};
  SimulatedClock clock_;
  SeededRandom random_{1};
  std::unique_ptr<StorageRoot> root_;
};

TEST_F(ContentStoreTest, WritesInOneGo) {
  ContentStore store(*root_);
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, store.OpenWriter("../up load", spec_, 0));
  ANNEAL_ASSERT_OK(writer->Append(content_.substr(0, 10)));
  ANNEAL_ASSERT_OK(writer->Append(content_.substr(10)));
  EXPECT_THAT(Blob(spec_.sha256), StatusIs(absl::StatusCode::kNotFound));
  ANNEAL_ASSERT_OK(writer->Commit());
  EXPECT_THAT(Blob(spec_.sha256), IsOkAndHolds(content_));
  EXPECT_THAT(store.ReceivedBytes("../up load"), IsOkAndHolds(0));
}

TEST_F(ContentStoreTest, TheEmptyFileIsAFile) {
  ContentStore store(*root_);
  const BlobSpec empty = {0, Sha256Hex("")};
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, store.OpenWriter("u", empty, 0));
  ANNEAL_ASSERT_OK(writer->Commit());
  EXPECT_THAT(Blob(empty.sha256), IsOkAndHolds(""));
}

TEST_F(ContentStoreTest, GoesOnFromWhereItStopped) {
  {
    ContentStore store(*root_);
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, store.OpenWriter("u", spec_, 0));
    ANNEAL_ASSERT_OK(writer->Append(content_.substr(0, 10)));
    EXPECT_THAT(writer->Commit(), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("offset 10")));
  }
  ContentStore store(*root_);
  EXPECT_THAT(store.ReceivedBytes("u"), IsOkAndHolds(10));
  EXPECT_THAT(store.OpenWriter("u", spec_, 11),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("offset 10")));
  EXPECT_THAT(store.OpenWriter("u", spec_, -1), StatusIs(absl::StatusCode::kOutOfRange));
  // An overlap is written anew.
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, store.OpenWriter("u", spec_, 7));
  ANNEAL_ASSERT_OK(writer->Append(content_.substr(7)));
  ANNEAL_ASSERT_OK(writer->Commit());
  EXPECT_THAT(Blob(spec_.sha256), IsOkAndHolds(content_));
}

TEST_F(ContentStoreTest, OneWriterPerUpload) {
  ContentStore store(*root_);
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, store.OpenWriter("u", spec_, 0));
  EXPECT_THAT(store.OpenWriter("u", spec_, 0), StatusIs(absl::StatusCode::kAborted));
  ANNEAL_EXPECT_OK(store.OpenWriter("v", spec_, 0));
  writer.reset();
  ANNEAL_EXPECT_OK(store.OpenWriter("u", spec_, 0));
}

TEST_F(ContentStoreTest, WrongContentIsThrownAway) {
  ContentStore store(*root_);
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, store.OpenWriter("u", spec_, 0));
  EXPECT_THAT(writer->Append(content_ + "x"),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("announced")));
  EXPECT_EQ(writer->received_bytes(), 0);
  ANNEAL_ASSERT_OK(writer->Append(std::string(content_.size(), 'x')));
  EXPECT_THAT(writer->Commit(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(spec_.sha256)));
  writer.reset();
  EXPECT_THAT(store.ReceivedBytes("u"), IsOkAndHolds(0));
  EXPECT_THAT(Blob(spec_.sha256), StatusIs(absl::StatusCode::kNotFound));
}

// A death at any operation leaves either no blob or the whole one, and the upload can be finished
// afterwards.
TEST_F(ContentStoreTest, SurvivesADeathAtEveryOperation) {
  for (int n = 0;; ++n) {
    SCOPED_TRACE(n);
    const std::string upload = "u" + std::to_string(n);
    const std::string content = content_ + upload;
    const BlobSpec spec = {static_cast<int64_t>(content.size()), Sha256Hex(content)};
    const auto attempt = [&](int64_t from) -> absl::Status {
      ContentStore store(*root_);
      ANNEAL_ASSIGN_OR_RETURN(auto writer, store.OpenWriter(upload, spec, from));
      for (size_t i = static_cast<size_t>(from); i < content.size(); i += 10) {
        ANNEAL_RETURN_IF_ERROR(writer->Append(absl::string_view(content).substr(i, 10)));
      }
      return writer->Commit();
    };
    faulty_.FailAfter(n);
    const absl::Status first = attempt(0);
    const bool died = faulty_.failed();
    faulty_.FailAfter(1 << 30);
    const absl::StatusOr<std::string> after = Blob(spec.sha256);
    if (first.ok()) {
      EXPECT_THAT(after, IsOkAndHolds(content));
    } else if (after.ok()) {
      EXPECT_EQ(*after, content);
    } else {
      ANNEAL_ASSERT_OK_AND_ASSIGN(const int64_t received,
                                  ContentStore(*root_).ReceivedBytes(upload));
      ANNEAL_EXPECT_OK(attempt(received));
      EXPECT_THAT(Blob(spec.sha256), IsOkAndHolds(content));
    }
    if (!died) {
      EXPECT_GT(n, 6);
      break;
    }
  }
}

}  // namespace
}  // namespace anneal
