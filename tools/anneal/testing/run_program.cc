#include "tools/anneal/testing/run_program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::cli {

Outcome RunProgram(const std::string& name, const std::vector<std::string>& arguments,
                   const std::string& folder) {
  const char* bin = std::getenv("ANNEAL_BIN_DIR");
  ANNEAL_CHECK(bin != nullptr);
  // posix_spawn cannot change the folder with every C library; env can.
  std::vector<std::string> words = {
      "/usr/bin/env", "-i", "-C", folder, "PATH=/usr/bin:/bin", absl::StrCat("HOME=", folder)};
  for (const char* options : {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"}) {
    if (const char* value = std::getenv(options)) {
      words.push_back(absl::StrCat(options, "=", value));
    }
  }
  words.push_back(absl::StrCat(bin, "/", name));
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string out = folder + "/stdout", err = folder + "/stderr";
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = 0;
  ANNEAL_CHECK(::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ) == 0);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  ANNEAL_CHECK(::waitpid(pid, &status, 0) == pid);
  return {.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1,
          .out = ReadAll(out),
          .err = ReadAll(err)};
}

std::string ReadAll(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace anneal::cli
