#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/storage/open_beneath.h"
#include "worker/prepare/commands.h"
#include "worker/prepare/data_report.h"
#include "worker/prepare/preparation.h"

namespace anneal::prepare {
namespace {

constexpr size_t kIssuesShown = 100;

struct Options {
  protocol::PrepareTask task;
  std::vector<std::string> train, validation;
  bool json = false;
  std::string output = "text";
};

// file:line: field: message (hint)
std::string Describe(const Json& issue) {
  std::string text;
  const std::string file = issue.value("file", ""), field = issue.value("field", ""),
                    hint = issue.value("hint", "");
  const int64_t line = issue.value("line", int64_t{0}), column = issue.value("column", int64_t{0});
  if (!file.empty()) absl::StrAppend(&text, file, ":");
  if (line > 0) absl::StrAppend(&text, line, ":");
  if (column > 0) absl::StrAppend(&text, column, ":");
  if (!text.empty()) text += ' ';
  if (issue.value("severity", "") != "ERROR") text += "warning: ";
  if (!field.empty()) absl::StrAppend(&text, field, ": ");
  absl::StrAppend(&text, issue.value("message", ""));
  if (!hint.empty()) absl::StrAppend(&text, " (", hint, ")");
  return text;
}

void PrintSplit(const char* name, const Json& split) {
  const int64_t rows = split.value("rows", int64_t{0});
  if (rows == 0) return;
  const auto number = [&](const char* key) {
    return static_cast<long long>(split.value(key, int64_t{0}));
  };
  std::printf(
      "%s: %lld rows, %lld tokens, %lld count for the loss; row lengths: half up to %lld, 90%% up "
      "to %lld, longest %lld\n",
      name, static_cast<long long>(rows), number("tokens"), number("supervised_tokens"),
      number("row_tokens_p50"), number("row_tokens_p90"), number("longest_row_tokens"));
}

void PrintForPeople(const Prepared& prepared) {
  const Json& issues = prepared.data_report["issues"];
  for (size_t i = 0; i < issues.size() && i < kIssuesShown; ++i) {
    std::printf("%s\n", Describe(issues[i]).c_str());
  }
  if (issues.size() > kIssuesShown) std::printf("... and %zu more\n", issues.size() - kIssuesShown);
  PrintSplit("training", prepared.data_report["train"]);
  PrintSplit("validation", prepared.data_report["validation"]);
  const protocol::PreparedReport& report = prepared.report;
  std::printf(
      "%lld repeated rows, %lld validation rows also trained on, %lld left out, %lld cut\n",
      static_cast<long long>(report.duplicate_rows), static_cast<long long>(report.leaked_rows),
      static_cast<long long>(report.dropped_rows), static_cast<long long>(report.truncated_rows));
  if (report.error_count == 0) {
    std::printf("ok\n");
  } else {
    std::printf("%lld error%s\n", static_cast<long long>(report.error_count),
                report.error_count == 1 ? "" : "s");
  }
}

bool Parse(int argc, char** argv, Options& options, int& exit_code) {
  CLI::App app(
      "Check data files against a model: every row is read, rendered and tokenised, nothing is "
      "written.",
      "anneal-prepare check");
  protocol::PrepareTask& task = options.task;
  task.threads = static_cast<int32_t>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
  app.add_option("files", options.train, "training data, JSON lines")->required();
  app.add_option("--model", task.model_dir, "Hugging Face folder")->required();
  app.add_option("--validation", options.validation, "validation data; may be given several times")
      ->allow_extra_args(false);
  app.add_option("--max-length", task.max_length, "tokens a row may have")->capture_default_str();
  app.add_option("--over-length", task.over_length, "longer rows: REJECT, TRUNCATE or DROP")
      ->capture_default_str();
  app.add_option("--train-on", task.train_on,
                 "what counts for the loss: ASSISTANT, LAST_TURN or ALL")
      ->capture_default_str();
  app.add_option("--threads", task.threads, "threads that tokenise")->capture_default_str();
  app.add_option("--output", options.output, "text, or json: the whole data report")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_flag("--json", options.json, "the same as --output json");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? kExitOk : kExitBadInput;
    return false;
  }
  task.template_time_unix_seconds = absl::ToUnixSeconds(Clock::Real().TimeNow());
  // Whoever checks their own files may have links.
  for (const std::string& path : options.train) task.train_files.push_back({PlainPath(path), path});
  for (const std::string& path : options.validation)
    task.validation_files.push_back({PlainPath(path), path});
  options.json = options.json || options.output == "json";
  return true;
}

}  // namespace

int CheckCommand(int argc, char** argv) {
  Options options;
  int exit_code = kExitOk;
  if (!Parse(argc, argv, options, exit_code)) return exit_code;
  const bool progress = !options.json && ::isatty(STDERR_FILENO);
  PrepareHooks hooks;
  if (progress) {
    hooks.on_phase = [](const std::string& phase) {
      std::fprintf(stderr, "\r\033[K%s", phase.c_str());
    };
  }
  Prepared prepared;
  const absl::Status status = CatchAll("check", [&]() -> absl::Status {
    ANNEAL_ASSIGN_OR_RETURN(prepared, Prepare(options.task, hooks));
    return absl::OkStatus();
  });
  if (progress) std::fprintf(stderr, "\r\033[K");
  if (!status.ok()) {
    std::fprintf(stderr, "anneal-prepare: %s\n", std::string(status.message()).c_str());
    return kExitFailed;
  }
  if (options.json) {
    std::printf("%s\n", DumpJson(prepared.data_report).c_str());
  } else {
    PrintForPeople(prepared);
  }
  return prepared.report.error_count == 0 ? kExitOk : kExitBadInput;
}

}  // namespace anneal::prepare
