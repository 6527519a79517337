#pragma once
// Flags and a YAML file -> the fields of one Options struct, on CLI11.
//
//   absl::StatusOr<std::optional<Options>> ParseOptions(int argc, const char* const* argv) {
//     Options options;
//     Flags flags("anneal-worker", "Runs fine-tuning jobs on this machine.");
//     flags.Text("coordinator", &options.coordinator, "Fleet address of the coordinator.");
//     flags.Duration("orphan-timeout", &options.orphan_timeout, "How long ...", absl::Seconds(1));
//     ANNEAL_ASSIGN_OR_RETURN(bool run, flags.Parse(argc, argv));
//     if (!run) return std::nullopt;            // --help or --version: printed, exit 0
//     ANNEAL_RETURN_IF_ERROR(options.Validate());
//     return options;
//   }
//
// Every program has --config FILE, whose keys are the flags' names with `_` for `-`; the command
// line wins over the file, the file over the value a field had before. A key that is unknown or
// given twice is an error with line and column. No environment variable is read.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace CLI {
class App;
}

namespace anneal {

// Guarded by its caller. The fields must outlive Parse; their values at the time of the call are
// the defaults that --help shows.
class Flags {
 public:
  Flags(const std::string& program, const std::string& purpose);
  ~Flags();
  Flags(const Flags&) = delete;
  Flags& operator=(const Flags&) = delete;

  // `name` without dashes in front: "storage-root".
  void Text(const std::string& name, std::string* field, const std::string& help);
  // May be given several times, or as a list in the file; what is given replaces the default as a
  // whole.
  void TextList(const std::string& name, std::vector<std::string>* field, const std::string& help);
  void Switch(const std::string& name, bool* field, const std::string& help);
  void Integer(const std::string& name, int* field, const std::string& help, int min, int max);
  void Duration(const std::string& name, absl::Duration* field, const std::string& help,
                absl::Duration min = absl::ZeroDuration());
  // A size such as 8GiB; the field's name ends in _bytes, the flag's does not.
  void Bytes(const std::string& name, int64_t* field, const std::string& help, int64_t min = 0);

  // True: go on. False: help or version was asked for and printed. INVALID_ARGUMENT says which flag
  // or key is wrong and how to get help.
  absl::StatusOr<bool> Parse(int argc, const char* const* argv);

 private:
  const std::unique_ptr<CLI::App> app_;
};

}  // namespace anneal
