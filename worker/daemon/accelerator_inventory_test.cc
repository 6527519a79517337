#include "worker/daemon/accelerator_inventory.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "worker/supervisor/cpu_list.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Library(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path().string() +
         "/lib/lib" + name + ".so";
}

TEST(AcceleratorInventoryTest, WithoutADriverThereAreCpuSlots) {
  const int processors = CountUsableProcessors();
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto slots, FindSlots({.nvml_library = "libno-such-thing.so"}));
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_EQ(slots[0].id(), "cpu0");
  EXPECT_EQ(slots[0].accelerator(), v1::ResourceSpec::ACCELERATOR_CPU);
  EXPECT_EQ(slots[0].threads(), processors);
  EXPECT_GT(slots[0].memory_bytes(), 0);
  EXPECT_FALSE(slots[0].device_name().empty());

  ANNEAL_ASSERT_OK_AND_ASSIGN(
      slots,
      FindSlots({.cpu_slots = 3, .threads_per_slot = 5, .nvml_library = "libno-such-thing.so"}));
  const int64_t divided = slots[0].memory_bytes();
  EXPECT_GT(divided, 0);
  ASSERT_EQ(slots.size(), 3u);
  EXPECT_EQ(slots[2].id(), "cpu2");
  EXPECT_EQ(slots[2].threads(), 5);

  ANNEAL_ASSERT_OK_AND_ASSIGN(slots, FindSlots({.cpu_slots = 3,
                                                .slot_memory_bytes = divided / 2,
                                                .nvml_library = "libno-such-thing.so"}));
  EXPECT_EQ(slots[2].memory_bytes(), divided / 2);
}

TEST(AcceleratorInventoryTest, GpusAreSlotsByUuid) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto slots, FindSlots({.nvml_library = Library("fake_nvml")}));
  ASSERT_EQ(slots.size(), 2u);
  EXPECT_EQ(slots[1].id(), "GPU-00000001");
  EXPECT_EQ(slots[1].device_uuid(), "GPU-00000001");
  EXPECT_EQ(slots[1].accelerator(), v1::ResourceSpec::ACCELERATOR_GPU);
  EXPECT_EQ(slots[1].device_name(), "NVIDIA H100 80GB HBM3");
  EXPECT_TRUE(slots[1].bf16());
  EXPECT_EQ(slots[1].memory_bytes(), int64_t{80} << 30);
  EXPECT_EQ(slots[0].cpu_list(), std::to_string(UsableProcessors().front()));
  EXPECT_EQ(slots[1].cpu_list(), "");
  ANNEAL_ASSERT_OK_AND_ASSIGN(slots,
                              FindSlots({.cpu_slots = 1, .nvml_library = Library("fake_nvml")}));
  EXPECT_EQ(slots.size(), 3u);
  ANNEAL_ASSERT_OK_AND_ASSIGN(slots,
                              FindSlots({.use_gpus = false, .nvml_library = Library("fake_nvml")}));
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_EQ(slots[0].id(), "cpu0");
}

TEST(AcceleratorInventoryTest, ABrokenDriverIsAnErrorNotAMachineWithoutGpus) {
  EXPECT_THAT(FindSlots({.nvml_library = Library("fake_nvml_broken")}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("version mismatch")));
  EXPECT_THAT(FindSlots({.nvml_library = "libm.so.6"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("nvmlInit_v2")));
}

TEST(AcceleratorInventoryTest, WhereGpusAreRequiredNoneIsAnErrorThatSaysWhatIsMissing) {
  EXPECT_THAT(
      FindSlots({.cpu_slots = 1, .require_gpus = true, .nvml_library = "libno-such-thing.so"}),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr("--require-gpus"), HasSubstr("libno-such-thing.so"),
                     HasSubstr("runtimeClassName: nvidia"), HasSubstr("driver"))));
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto slots, FindSlots({.require_gpus = true, .nvml_library = Library("fake_nvml")}));
  EXPECT_EQ(slots.size(), 2u);
  EXPECT_THAT(FindSlots({.require_gpus = true, .nvml_library = Library("fake_nvml_broken")}),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST(AcceleratorInventoryTest, Bf16IsAFeatureOfTheProcessor) {
  EXPECT_TRUE(HasBf16DotProducts("model name\t: X\nflags\t\t: fpu avx512_bf16 sse\n"));
  EXPECT_TRUE(HasBf16DotProducts("flags\t\t: fpu amx_bf16\n"));
  EXPECT_TRUE(HasBf16DotProducts("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"));
  EXPECT_FALSE(HasBf16DotProducts("model name\t: bf16\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"));
  EXPECT_FALSE(HasBf16DotProducts(""));
}

TEST(AcceleratorInventoryTest, SlotsLeaveMemoryToTheOthersOfTheWorker) {
  constexpr int64_t kMiB = 1 << 20;
  const InventoryOptions options = {.reserved_memory_bytes = 356 * kMiB,
                                    .reserved_memory_bytes_per_slot = 60 * kMiB};
  EXPECT_EQ(MemoryOfCpuSlot(options, 8192 * kMiB, 2), (8192 - 356 - 2 * 60) * kMiB / 2);
  // All trainers at the guard's 95 %, and the others: the limit is not reached.
  EXPECT_LT(0.95 * 2 * MemoryOfCpuSlot(options, 8192 * kMiB, 2) + (356 + 120) * kMiB, 8192 * kMiB);
  EXPECT_EQ(MemoryOfCpuSlot(options, 1024 * kMiB, 4), 192 * kMiB) << "three quarters";
  EXPECT_EQ(MemoryOfCpuSlot(options, 1024 * kMiB, 0), 768 * kMiB);
}

TEST(AcceleratorInventoryTest, TheLowestLimitOfAllControlGroupsCounts) {
  const testing::TempDir root;
  const std::string own = root.path() + "/own";
  std::ofstream(own) << "1:name=systemd:/x\n0::/slice/pod\n";
  std::filesystem::create_directories(root.path() + "/slice/pod");
  const int all = CountUsableProcessors(root.path(), own);
  EXPECT_GE(all, 1);
  std::ofstream(root.path() + "/slice/pod/cpu.max") << "max 100000\n";
  EXPECT_EQ(CountUsableProcessors(root.path(), own), all);
  std::ofstream(root.path() + "/slice/cpu.max") << "50000 100000\n";
  EXPECT_EQ(CountUsableProcessors(root.path(), own), 1);  // never none
  const int64_t memory = CountUsableMemory(root.path(), own);
  EXPECT_GT(memory, 1000);
  std::ofstream(root.path() + "/slice/memory.max") << "1000\n";
  std::ofstream(root.path() + "/slice/pod/memory.max") << "max\n";
  EXPECT_EQ(CountUsableMemory(root.path(), own), 1000);
  std::ofstream(root.path() + "/slice/cpu.max") << "nonsense\n";
  EXPECT_EQ(CountUsableProcessors(root.path(), own), all);
}

}  // namespace
}  // namespace anneal
