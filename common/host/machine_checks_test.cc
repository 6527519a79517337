#include "common/host/machine_checks.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/temp_dir.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Library(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path().string() +
         "/lib/lib" + name + ".so";
}

TEST(GpuDriverCheckTest, ADriverThatFitsIsDescribed) {
  const v1::Check check = CheckGpuDriver(Library("fake_nvml"));
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK) << check.ShortDebugString();
  EXPECT_EQ(check.measured(), "580.65.06 with 2 GPUs, runs CUDA up to 13.0");
}

// A folder of PCI devices, as sysfs shows them.
class Bus {
 public:
  void Add(const std::string& device, const std::string& vendor, const std::string& kind) {
    const std::string folder = disk_.path() + "/" + device;
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/vendor") << vendor << "\n";
    std::ofstream(folder + "/class") << kind << "\n";
  }
  const std::string& path() const { return disk_.path(); }

 private:
  testing::TempDir disk_;
};

TEST(GpuDriverCheckTest, NoDriverIsNoFaultWithoutGpus) {
  Bus bus;
  bus.Add("0000:00:02.0", "0x8086", "0x030000");  // another's
  bus.Add("0000:01:00.1", "0x10de", "0x040300");  // no GPU
  for (const std::string& path : {bus.path(), std::string("/none-such")}) {
    const v1::Check check = CheckGpuDriver("libnone-such.so.1", path);
    EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK);
    EXPECT_THAT(check.measured(), HasSubstr("CPU slots only"));
  }
}

TEST(GpuDriverCheckTest, GpusWithoutADriverAreAFailure) {
  Bus bus;
  bus.Add("0000:01:00.0", "0x10de", "0x030200");
  bus.Add("0000:02:00.0", "0x10de", "0x030000");
  const v1::Check check = CheckGpuDriver("libnone-such.so.1", bus.path());
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_EQ(check.measured(),
            "2 NVIDIA GPUs are on the bus, and libnone-such.so.1 is not installed");
  EXPECT_THAT(check.advice(), AllOf(HasSubstr("580"), HasSubstr("--gpus=false")));
}

TEST(GpuDriverCheckTest, AnOldDriverWithCompatibilityLibrariesIsAWarning) {
  const v1::Check check = CheckGpuDriver(Library("fake_nvml_compat"));
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_THAT(check.measured(), HasSubstr("570.86.15 with 2 GPUs, runs CUDA up to 13.0 by compat"));
  EXPECT_THAT(check.advice(), HasSubstr("580"));
}

TEST(GpuDriverCheckTest, ABrokenOrOldDriverIs) {
  const v1::Check broken = CheckGpuDriver(Library("fake_nvml_broken"));
  EXPECT_EQ(broken.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(broken.measured(), HasSubstr("version mismatch"));
  EXPECT_THAT(broken.advice(), HasSubstr("nvidia-smi"));
  const v1::Check old = CheckGpuDriver(Library("fake_nvml_old"));
  EXPECT_EQ(old.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(old.measured(), HasSubstr("CUDA up to 12.4"));
  EXPECT_THAT(old.advice(), HasSubstr("CUDA 13.0"));
}

TEST(SharedMemoryCheckTest, SeveralGpusNeedRoom) {
  const testing::TempDir disk;
  EXPECT_EQ(CheckSharedMemory(2, disk.path()).verdict(), v1::Check::VERDICT_OK);
  const v1::Check small = CheckSharedMemory(2, "/proc");  // has no size
  EXPECT_EQ(small.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(small.measured(), HasSubstr("/proc has 0 MiB"));
  EXPECT_THAT(small.advice(), HasSubstr("1024 MiB"));
}

TEST(SharedMemoryCheckTest, ItMustBeThereAndWritable) {
  const v1::Check unwritable = CheckSharedMemory(1, "/proc");
  EXPECT_EQ(unwritable.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(unwritable.measured(), HasSubstr("cannot write in /proc"));
  const v1::Check missing = CheckSharedMemory(0, "/none-such");
  EXPECT_EQ(missing.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(missing.advice(), HasSubstr("mount a tmpfs at /none-such"));
}

class RdmaCheckTest : public ::testing::Test {
 protected:
  v1::Check Check(uint64_t lockable_bytes) {
    return CheckRdma(lockable_bytes, disk_.path() + "/dev", disk_.path() + "/sys");
  }
  void Add(const std::string& name) {
    const std::string path = disk_.path() + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << "";
  }

  testing::TempDir disk_;
};

TEST_F(RdmaCheckTest, AMachineWithoutAdaptersIsWell) {
  const v1::Check check = Check(65536);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK);
  EXPECT_THAT(check.measured(), HasSubstr("TCP"));
}

TEST_F(RdmaCheckTest, AdaptersNeedTheirDevicesAndMemoryToLock) {
  Add("sys/mlx5_0");
  v1::Check check = Check(UINT64_MAX);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_THAT(check.measured(), AllOf(HasSubstr("mlx5_0"), HasSubstr("no devices in")));
  Add("dev/rdma_cm");
  EXPECT_EQ(Check(UINT64_MAX).verdict(), v1::Check::VERDICT_WARNING);
  Add("dev/uverbs0");
  check = Check(UINT64_MAX);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK) << check.ShortDebugString();
  check = Check(8 << 20);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_THAT(check.measured(), HasSubstr("8192 KiB may be locked"));
  EXPECT_THAT(check.advice(), HasSubstr("LimitMEMLOCK=infinity"));
}

TEST(PortsCheckTest, FreePortsAreFoundAndTheirRangeSaid) {
  const testing::TempDir disk;
  const std::string range = disk.path() + "/range";
  std::ofstream(range) << "40000\t44999\n";
  const v1::Check check = CheckPorts("127.0.0.1", range);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK) << check.ShortDebugString();
  EXPECT_EQ(check.measured(), "64 free ones at 127.0.0.1, of 40000-44999");
  EXPECT_EQ(CheckPorts("::1", range).verdict(), CheckPorts("::1").verdict());
}

TEST(PortsCheckTest, AnAddressOfAnotherMachineOrNoneIsRefused) {
  // For documentation (RFC 5737): nobody has it.
  const v1::Check foreign = CheckPorts("192.0.2.1");
  EXPECT_EQ(foreign.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(foreign.measured(), HasSubstr("192.0.2.1"));
  EXPECT_THAT(foreign.advice(), HasSubstr("must be an address of this machine"));
  const v1::Check name = CheckPorts("node7");
  EXPECT_EQ(name.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(name.measured(), HasSubstr("'node7' is no IP address"));
}

}  // namespace
}  // namespace anneal
