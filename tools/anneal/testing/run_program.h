#pragma once
// Runs a program as a user would, for tests of what it prints and how it ends.

#include <string>
#include <vector>

namespace anneal::cli {

struct Outcome {
  int code = -1;  // -1 = killed
  std::string out, err;
};

// Runs `name` of ANNEAL_BIN_DIR in `folder`, which also is HOME and gets the files stdout and
// stderr, and waits for its end.
Outcome RunProgram(const std::string& name, const std::vector<std::string>& arguments,
                   const std::string& folder);

// The whole file; empty if there is none.
std::string ReadAll(const std::string& path);

}  // namespace anneal::cli
