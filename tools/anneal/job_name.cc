#include "tools/anneal/job_name.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/spec/issues.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

constexpr int kMaxShown = 5;

absl::StatusOr<v1::ListJobsResponse> List(Client& client, const v1::ListJobsRequest& request) {
  return client.Call(&v1::FineTuningService::StubInterface::ListJobs, request);
}

absl::Status Ambiguous(absl::string_view text, const std::vector<v1::Job>& jobs) {
  std::vector<std::string> shown;
  for (const v1::Job& job : jobs) {
    if (shown.size() == kMaxShown) {
      shown.push_back("...");
      break;
    }
    shown.push_back(absl::StrCat(IdOf(job.name()), " ", StateName(job.state())));
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' may mean ", jobs.size(),
                                                 " jobs; use an id: ", absl::StrJoin(shown, ", ")));
}

absl::StatusOr<std::string> NewestJob(Client& client) {
  v1::ListJobsRequest request;
  request.set_page_size(1);
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobsResponse response, List(client, request));
  if (response.jobs().empty()) return absl::NotFoundError("@last: there are no jobs yet");
  return response.jobs(0).name();
}

}  // namespace

absl::StatusOr<std::string> ResolveJobName(Client& client, absl::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("the job's name is empty");
  if (text == "@last") return NewestJob(client);
  if (IsUlid(absl::StripPrefix(text, "jobs/")))
    return absl::StrCat("jobs/", absl::StripPrefix(text, "jobs/"));

  v1::ListJobsRequest request;
  request.set_display_name(std::string(text));
  request.set_page_size(1000);
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobsResponse named, List(client, request));
  if (named.jobs_size() == 1) return named.jobs(0).name();
  if (named.jobs_size() > 1) return Ambiguous(text, {named.jobs().begin(), named.jobs().end()});

  request.clear_display_name();
  std::vector<v1::Job> matches;
  std::vector<std::string> display_names;
  const std::string prefix = absl::StrCat("jobs/", absl::StripPrefix(text, "jobs/"));
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobsResponse page, List(client, request));
    for (const v1::Job& job : page.jobs()) {
      if (absl::StartsWith(job.name(), prefix)) matches.push_back(job);
      display_names.push_back(job.resolved().spec().display_name());
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (matches.size() == 1) return matches[0].name();
  if (matches.size() > 1) return Ambiguous(text, matches);
  const std::string near = spec::ClosestMatch(text, display_names);
  return absl::NotFoundError(absl::StrCat("no job is named '", text, "'",
                                          near.empty()
                                              ? "; list them with `anneal jobs`"
                                              : absl::StrCat("; did you mean ", near, "?")));
}

}  // namespace anneal::cli
