#include "coordinator/api/free_room.h"

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/storage/testing/faulty_file_system.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

TEST(FreeRoomTest, AFullDiskIsSeenSoonAndAnEmptiedOneAtOnce) {
  testing::FaultyFileSystem files(FileSystem::Posix());
  SimulatedClock clock;
  FreeRoom room(files, clock, {"/catalog", "/storage"}, 100);
  files.SetFreeBytes(100);
  ANNEAL_EXPECT_OK(room.Check());
  files.SetFreeBytes(99);
  clock.AdvanceTime(absl::Milliseconds(100));
  const absl::Status full = room.Check();
  EXPECT_THAT(full, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("/catalog")));
  EXPECT_EQ(ReasonOf(full), "STORAGE_FULL");
  files.SetFreeBytes(100);
  ANNEAL_EXPECT_OK(room.Check());
}

TEST(FreeRoomTest, WhatCannotBeAskedIsNotFull) {
  testing::FaultyFileSystem files(FileSystem::Posix());
  SimulatedClock clock;
  FreeRoom room(files, clock, {"/nowhere/at/all"}, 100);
  EXPECT_THAT(room.Check(), ::testing::Not(IsOk()));
  EXPECT_NE(ReasonOf(room.Check()), "STORAGE_FULL");
}

}  // namespace
}  // namespace anneal
