#pragma once
// Stands for anneal-trainer where its short commands are started: a shell script.

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/temp_dir.h"
#include "worker/examiner/slot_lender.h"

namespace anneal::testing {

// What a rank prints that has measured `one_way` bytes a second.
inline std::string FiguresLine(int one_way) {
  return absl::StrCat("echo '{\"library\": \"Fake\", \"one_way_bytes_per_second\": ", one_way,
                      ", \"all_to_all_bytes_per_second\": ", one_way / 2,
                      ", \"all_reduce_bytes_per_second\": ", one_way / 4,
                      ", \"latency_seconds\": 0.5}'\n");
}

// Owns the script. Its arguments are in "$*", and $0 is its path.
class FakeTrainer {
 public:
  explicit FakeTrainer(const std::string& script) {
    std::ofstream(path()) << "#!/bin/sh\n" << script;
    ::chmod(path().c_str(), 0700);
  }
  std::string path() const { return folder_.path() + "/anneal-trainer"; }
  TrainerSlot Slot(v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_CPU,
                   const std::string& id = "slot") const {
    return {id, accelerator, path(), {{"PATH", "/usr/bin:/bin"}}};
  }

 private:
  TempDir folder_;
};

// Rank 0 and 1 as they should be: what reaches rank 0 has 1000 bytes a second, rank 1 2000.
inline std::string GoodTrainer() {
  return absl::StrCat("case \"$*\" in\n*'--rank 0'*) echo 'rendezvous 127.0.0.1:7'\n",
                      FiguresLine(1000), ";;\n*'--rendezvous 127.0.0.1:7'*) ", FiguresLine(2000),
                      ";;\n*) echo \"anneal-trainer: unexpected $*\" >&2; exit 1;;\nesac\n");
}

}  // namespace anneal::testing
