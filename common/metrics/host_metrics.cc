#include "common/metrics/host_metrics.h"

#include <sys/statvfs.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace anneal {

HostMetrics::HostMetrics(MetricRegistry& registry)
    : build_info(registry, {"anneal_build_info",
                            "Always 1; carries the program's name and version.",
                            {"program", "version"}}),
      file_system_size_bytes(registry,
                             {"anneal_file_system_size_bytes",
                              "Size of the file system that holds a folder of the program.",
                              {"place"}}),
      file_system_free_bytes(registry,
                             {"anneal_file_system_free_bytes",
                              "Room left for the program on the file system that holds a folder "
                              "of it.",
                              {"place"}}) {}

absl::Status HostMetrics::MeasureFileSystem(absl::string_view place, const std::string& folder) {
  struct statvfs found = {};
  if (::statvfs(folder.c_str(), &found) != 0) {
    const int error = errno;
    file_system_size_bytes.Remove({place});
    file_system_free_bytes.Remove({place});
    return absl::ErrnoToStatus(error, absl::StrCat("cannot look at the file system of ", folder));
  }
  const auto unit = static_cast<double>(found.f_frsize);
  file_system_size_bytes.Set(unit * static_cast<double>(found.f_blocks), {place});
  file_system_free_bytes.Set(unit * static_cast<double>(found.f_bavail), {place});
  return absl::OkStatus();
}

}  // namespace anneal
