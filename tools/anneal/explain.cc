// anneal explain.

#include "tools/anneal/explain.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/spec/issues.h"
#include "common/spec/message_json.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/history.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/result.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Jobs = v1::FineTuningService::StubInterface;

std::string FormatSteps(int64_t first, int64_t last) {
  return first == last ? absl::StrCat("step ", first) : absl::StrCat("steps ", first, "-", last);
}

std::string FormatAttempt(const v1::JobEvent& event) {
  const v1::AttemptEnd& end = event.attempt_end();
  std::string text = absl::StrCat("  generation ", end.generation());
  if (end.has_rank()) absl::StrAppend(&text, ", rank ", end.rank());
  if (!end.worker().empty()) absl::StrAppend(&text, " on ", end.worker());
  if (end.step() > 0) absl::StrAppend(&text, ", after step ", end.step());
  absl::StrAppend(&text, ": ", end.cause().empty() ? event.message() : end.cause());
  if (!end.blame().empty()) absl::StrAppend(&text, " (", end.blame(), ")");
  if (end.has_resume_step() && end.step() > end.resume_step()) {
    absl::StrAppend(&text, "; ", FormatSteps(end.resume_step() + 1, end.step()), " done again");
  }
  return absl::StrCat(text, "\n");
}

bool IsWarning(const v1::JobEvent& event) {
  return event.level() >= v1::JobEvent::LEVEL_WARNING && !event.has_state_change() &&
         !event.has_attempt_end();
}

// When the job came into its state; null if it is not known.
const v1::JobEvent* LastStateChange(const std::vector<v1::JobEvent>& events) {
  const auto last = std::find_if(events.rbegin(), events.rend(), [](const v1::JobEvent& event) {
    return event.has_state_change();
  });
  return last == events.rend() ? nullptr : &*last;
}

std::string FormatState(const v1::Job& job, const std::vector<v1::JobEvent>& events,
                        absl::Time now) {
  std::string text = absl::StrCat("job ", IdOf(job.name()), " is ", StateName(job.state()));
  if (const v1::JobEvent* since = LastStateChange(events); since != nullptr)
    absl::StrAppend(&text, " for ", ShortDuration(now - ToTime(since->time())));
  if (!job.state_message().empty()) absl::StrAppend(&text, ": ", job.state_message());
  return absl::StrCat(text, "\n");
}

std::string FormatCost(const v1::JobUsage& usage) {
  if (usage.slot_seconds() <= 0) return "";
  const auto time = [](double seconds) { return ShortDuration(absl::Seconds(seconds)); };
  std::string text =
      absl::StrCat("it has held slots for ", time(usage.slot_seconds()), " in all, ",
                   time(usage.redone_slot_seconds()), " of that for steps that were done again");
  if (usage.lost_slot_seconds() > 0)
    absl::StrAppend(&text, ", ", time(usage.lost_slot_seconds()),
                    " for steps that came to nothing");
  if (usage.idle_slot_seconds() > 0) {
    absl::StrAppend(&text, ", ", time(usage.idle_slot_seconds()),
                    " without training (starting, stopping, recovering)");
  }
  return absl::StrCat(text, "\n");
}

absl::StatusOr<ExitCode> Explain(CommandLine& line, const std::string& text) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::GetJobRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, text));
  ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, client->Call(&Jobs::GetJob, request));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<v1::JobEvent> events,
                          ReadEvents(*client, request.name()));
  if (line.json()) {
    std::cout << DumpJson(ExplanationJson(job, events)) << "\n";
  } else {
    std::cout << Printable(FormatExplanation(job, events, Clock::Real().TimeNow()));
  }
  return kOk;
}

}  // namespace

std::string FormatExplanation(const v1::Job& job, const std::vector<v1::JobEvent>& events,
                              absl::Time now) {
  std::string attempts, warnings;
  for (const v1::JobEvent& event : events) {
    if (event.has_attempt_end()) {
      absl::StrAppend(&attempts, FormatAttempt(event));
    } else if (IsWarning(event)) {
      absl::StrAppend(&warnings, "  ",
                      event.has_issue() ? spec::FormatIssue(event.issue()) : event.message(), "\n");
    }
  }
  std::string text = FormatState(job, events, now);
  if (job.state() == v1::JOB_STATE_FAILED) absl::StrAppend(&text, FormatFailure(job));
  if (!attempts.empty()) absl::StrAppend(&text, "attempts that ended:\n", attempts);
  if (!warnings.empty()) absl::StrAppend(&text, "warnings:\n", warnings);
  return absl::StrCat(text, FormatCost(job.usage()));
}

Json ExplanationJson(const v1::Job& job, const std::vector<v1::JobEvent>& events) {
  Json json = {{"job", job.name()},
               {"state", v1::JobState_Name(job.state())},
               {"state_reason", job.state_reason()},
               {"state_message", job.state_message()}};
  if (const v1::JobEvent* since = LastStateChange(events); since != nullptr)
    json["state_time"] = spec::MessageToJson(*since)["time"];
  if (job.has_error()) json["error"] = spec::MessageToJson(job.error());
  Json attempts = Json::array(), warnings = Json::array();
  for (const v1::JobEvent& event : events) {
    if (event.has_attempt_end()) attempts.push_back(spec::MessageToJson(event));
    if (IsWarning(event)) warnings.push_back(spec::MessageToJson(event));
  }
  json["attempts"] = std::move(attempts);
  json["warnings"] = std::move(warnings);
  json["usage"] = spec::MessageToJson(job.usage());
  return json;
}

void AddExplainCommand(CommandLine& line) {
  auto job = std::make_shared<std::string>();
  line.AddCommand(nullptr, "explain", "Say why a job waits or failed, and what was done again",
                  [&line, job] { return Explain(line, *job); })
      ->add_option("job", *job, "Job")
      ->required();
}

}  // namespace anneal::cli
