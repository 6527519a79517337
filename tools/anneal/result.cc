#include "tools/anneal/result.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/spec/issues.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

constexpr int kMaxShownIssues = 20;

// Adapter names end up in a shell line and in URLs.
std::string AdapterName(const std::string& display_name) {
  std::string name;
  for (char c : display_name)
    name.push_back(absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' ? c : '-');
  return name.empty() ? "tuned" : name;
}

// In single quotes unless plain.
std::string ShellQuoted(const std::string& text) {
  constexpr char kPlain[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// vLLM takes these values for --max-lora-rank and loads adapters up to 16 without it.
int VllmMaxLoraRank(int rank) {
  for (int allowed : {16, 32, 64, 128, 256, 320, 512}) {
    if (rank <= allowed) return allowed;
  }
  return rank;
}

}  // namespace

std::string FormatBeforeAndAfter(const v1::JobResult& result) {
  if (!result.has_before() || !result.has_after()) return "";
  const v1::EvaluationPoint& before = result.before();
  const v1::EvaluationPoint& after = result.after();
  Table table({absl::StrCat("on ", after.rows(), " held-out rows"), "before", "after"});
  table.AddRow(
      {"loss", absl::StrFormat("%.4f", before.loss()), absl::StrFormat("%.4f", after.loss())});
  table.AddRow(
      {"exact match", FormatPercent(before.exact_match()), FormatPercent(after.exact_match())});
  if (before.has_choice_accuracy() && after.has_choice_accuracy()) {
    table.AddRow({"choice accuracy", FormatPercent(before.choice_accuracy()),
                  FormatPercent(after.choice_accuracy())});
  }
  return table.Format();
}

std::string VllmServeLine(const v1::Job& job, const std::string& output_folder,
                          const std::string& base) {
  const v1::JobSpec& spec = job.resolved().spec();
  if (!spec.method().has_lora())
    return absl::StrCat("vllm serve ", ShellQuoted(output_folder + "/model"));
  std::string line = absl::StrCat("vllm serve ", ShellQuoted(base), " --enable-lora");
  const int rank = VllmMaxLoraRank(spec.method().lora().rank());
  if (rank > 16) absl::StrAppend(&line, " --max-lora-rank ", rank);
  return absl::StrCat(line, " --lora-modules ", AdapterName(spec.display_name()), "=",
                      ShellQuoted(output_folder + "/adapter"));
}

std::string FormatFailure(const v1::Job& job) {
  std::string out = absl::StrCat(
      job.error().message().empty() ? job.state_message() : job.error().message(), "\n");
  int shown = 0;
  for (const v1::Issue& issue : job.data().issues()) {
    if (issue.severity() != v1::Issue::SEVERITY_ERROR) continue;
    if (shown == kMaxShownIssues) break;
    ++shown;
    absl::StrAppend(&out, "  ", spec::FormatIssue(issue), "\n");
  }
  if (job.data().error_count() > shown && shown > 0) {
    absl::StrAppend(&out, "  and ", job.data().error_count() - shown, " more\n");
  }
  if (!job.log_tail().empty()) absl::StrAppend(&out, "the end of the log:\n", job.log_tail(), "\n");
  return Printable(out);
}

}  // namespace anneal::cli
