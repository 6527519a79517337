#include "worker/supervisor/cpu_list.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace anneal {
namespace {

// Far above what Linux can be built for, and small enough for a list of them.
constexpr int kMostProcessors = 1 << 16;

}  // namespace

std::string FormatCpuList(const std::vector<int>& processors) {
  std::string text;
  for (size_t first = 0; first < processors.size();) {
    size_t last = first;
    while (last + 1 < processors.size() && processors[last + 1] == processors[last] + 1) ++last;
    absl::StrAppend(&text, text.empty() ? "" : ",", processors[first]);
    if (last > first) absl::StrAppend(&text, "-", processors[last]);
    first = last + 1;
  }
  return text;
}

absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text) {
  std::vector<int> processors;
  for (absl::string_view range : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    int first = 0, last = 0;
    const bool read = ends.size() <= 2 && absl::SimpleAtoi(ends.front(), &first) &&
                      absl::SimpleAtoi(ends.back(), &last);
    const int least = processors.empty() ? 0 : processors.back() + 1;
    if (!read || first < least || last < first || last >= kMostProcessors) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "' is not an ascending list of processors such as 0-15,32"));
    }
    processors.resize(processors.size() + last - first + 1);
    std::iota(processors.end() - (last - first + 1), processors.end(), first);
  }
  return processors;
}

std::vector<int> UsableProcessors() {
  std::vector<int> processors;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) {
    // More processors than a cpu_set_t holds; then nobody has restricted us to few of them.
    processors.resize(std::max<long>(1, ::sysconf(_SC_NPROCESSORS_ONLN)));
    std::iota(processors.begin(), processors.end(), 0);
    return processors;
  }
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

}  // namespace anneal
