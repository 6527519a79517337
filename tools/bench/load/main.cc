// anneal-load: puts a coordinator under one kind of load and prints what it measured as one JSON
// object. tools/bench/control_plane runs it; on its own it is of little use.

#include <csignal>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/config/flags.h"
#include "common/format/json.h"
#include "common/rpc/authentication.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "grpcpp/generic/generic_stub.h"
#include "tools/bench/load/closed_loop.h"
#include "tools/bench/load/connections.h"
#include "tools/bench/load/simulated_fleet.h"
#include "tools/bench/load/watchers.h"

namespace anneal::load {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(120);
constexpr absl::Duration kCallTimeout = absl::Seconds(60);
constexpr int kPageSize = 1000;

struct Options {
  std::string mode;
  std::string target;
  TlsFiles tls;
  std::string credentials_file;
  std::string model, train;
  int connections = 1;
  int in_flight = 1;
  int warm_up = 0;
  int calls = 0;
  int changes = 0;
  absl::Duration time = absl::Seconds(10);
};

using Channels = std::vector<std::shared_ptr<grpc::Channel>>;
using Service = v1::FineTuningService;

void Print(const Json& report) {
  std::printf("%s\n", DumpJson(report).c_str());
  std::fflush(stdout);
}

// What one asynchronous call needs until it has ended. Answers are counted, not read: the load
// shares the processors with what it loads.
struct PendingCall {
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

// Calls of one method, spread over the connections. `make_request` gives the request's bytes.
ClosedLoop::Start CallsOf(const Channels& channels, const std::string& key,
                          const std::string& method,
                          std::function<std::string(int64_t)> make_request) {
  auto stubs = std::make_shared<std::vector<std::unique_ptr<grpc::GenericStub>>>();
  for (const auto& channel : channels)
    stubs->push_back(std::make_unique<grpc::GenericStub>(channel));
  return [=](int64_t number, std::function<void(const absl::Status&)> done) {
    auto owned = std::make_shared<PendingCall>();
    PendingCall* call = owned.get();
    PrepareCall(call->context, key, kCallTimeout);
    const grpc::Slice bytes(make_request(number));
    call->request = grpc::ByteBuffer(&bytes, 1);
    (*stubs)[number % stubs->size()]->UnaryCall(
        &call->context, method, grpc::StubOptions(), &call->request, &call->response,
        // Releases the call before it tells of the end: its context holds on to the channel, and
        // whoever lets go of a channel last must not be gRPC's thread, which would wait for its own
        // end.
        [owned = std::move(owned), done = std::move(done)](const grpc::Status& status) mutable {
          owned.reset();
          done(FromGrpcStatus(status));
        });
  };
}

// Names of the project's jobs in these states (none = all), newest first, at most `limit`.
absl::StatusOr<std::vector<std::string>> ListJobs(const Channels& channels, const std::string& key,
                                                  const std::vector<v1::JobState>& states,
                                                  size_t limit) {
  const std::unique_ptr<Service::Stub> stub = Service::NewStub(channels.front());
  v1::ListJobsRequest request;
  request.set_page_size(kPageSize);
  for (const v1::JobState state : states) request.add_states(state);
  std::vector<std::string> names;
  do {
    grpc::ClientContext context;
    PrepareCall(context, key, kCallTimeout);
    v1::ListJobsResponse page;
    ANNEAL_RETURN_IF_ERROR(FromGrpcStatus(stub->ListJobs(&context, request, &page)));
    for (const v1::Job& job : page.jobs()) names.push_back(job.name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && names.size() < limit);
  if (names.size() > limit) names.resize(limit);
  return names;
}

v1::CreateJobRequest SubmitRequest(const Options& options, const std::string& run, int64_t number) {
  v1::CreateJobRequest request;
  request.set_request_id(absl::StrCat(run, "-", number));
  v1::JobSpec& spec = *request.mutable_spec();
  spec.set_display_name(absl::StrCat("load ", number));
  spec.set_model(options.model);
  spec.mutable_data()->add_train(options.train);
  spec.mutable_resources()->set_slots(1);
  spec.mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
  return request;
}

absl::StatusOr<ClosedLoop::Start> CallsOfMode(const Options& options, const Channels& channels,
                                              const std::string& key, Clock& clock) {
  const auto method = [](absl::string_view name) {
    return absl::StrCat("/", Service::service_full_name(), "/", name);
  };
  // Reaches no code of ours but what watches every call: what gRPC and TLS alone cost.
  if (options.mode == "health")
    return CallsOf(channels, "", "/grpc.health.v1.Health/Check", [](int64_t) { return ""; });
  if (options.mode == "submit") {
    const std::string run = absl::StrCat(absl::ToUnixMicros(clock.TimeNow()));
    return CallsOf(channels, key, method("CreateJob"), [options, run](int64_t number) {
      return SubmitRequest(options, run, number).SerializeAsString();
    });
  }
  if (options.mode == "list")
    return CallsOf(channels, key, method("ListJobs"), [](int64_t) { return ""; });
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                          ListJobs(channels, key, {}, SIZE_MAX));
  if (names.empty()) return absl::FailedPreconditionError("there are no jobs to get");
  return CallsOf(channels, key, method("GetJob"), [names](int64_t n) {
    v1::GetJobRequest request;
    // A prime stride: each call asks for another part of the table.
    request.set_name(names[static_cast<size_t>(n) * 7919 % names.size()]);
    return request.SerializeAsString();
  });
}

absl::StatusOr<Json> RunCalls(const Options& options, const Channels& channels,
                              const std::string& key, Clock& clock) {
  ANNEAL_ASSIGN_OR_RETURN(ClosedLoop::Start start, CallsOfMode(options, channels, key, clock));
  ClosedLoop loop({options.in_flight, options.warm_up, options.calls, options.time}, clock,
                  std::move(start));
  return loop.Run();
}

// Prints how soon all workers were answered, and a report for each line that it is given, until
// there are no more: the fleet stays while other things are measured.
absl::StatusOr<Json> RunFleet(const Channels& channels, const std::string& key, Clock& clock) {
  const absl::Duration began = clock.MonotonicNow();
  SimulatedFleet fleet(channels, key, clock);
  if (!fleet.AwaitAnswers(kConnectTimeout))
    return absl::UnavailableError("not every worker was answered");
  Json joined;
  joined["all_answered_seconds"] = absl::ToDoubleSeconds(clock.MonotonicNow() - began);
  Print(joined);
  for (std::string line; std::getline(std::cin, line);) Print(fleet.Report());
  return fleet.Report();
}

// Pauses watched jobs one after another; the latencies are from each call's start until its watcher
// has heard of it.
absl::StatusOr<Json> PauseWatched(const Options& options, const Channels& channels,
                                  const std::string& key,
                                  const std::vector<std::unique_ptr<Watcher>>& watchers,
                                  Clock& clock) {
  const std::unique_ptr<Service::Stub> stub = Service::NewStub(channels.front());
  Latencies latencies;
  int64_t unheard = 0;
  for (int i = 0; i < options.changes; ++i) {
    Watcher& watcher = *watchers[i];
    grpc::ClientContext context;
    PrepareCall(context, key, kCallTimeout);
    v1::JobActionRequest request;
    request.set_name(watcher.job());
    v1::Job job;
    const absl::Duration began = clock.MonotonicNow();
    ANNEAL_RETURN_IF_ERROR(FromGrpcStatus(stub->PauseJob(&context, request, &job)));
    const absl::Duration heard = watcher.AwaitState(v1::JOB_STATE_PAUSED, kCallTimeout);
    if (heard == absl::InfiniteDuration()) {
      ++unheard;
    } else {
      latencies.Add(heard - began);
    }
  }
  Json report = latencies.Summary();
  report["unheard"] = unheard;
  return report;
}

absl::StatusOr<Json> RunWatch(const Options& options, const Channels& channels,
                              const std::string& key, Clock& clock) {
  ANNEAL_ASSIGN_OR_RETURN(
      const std::vector<std::string> jobs,
      ListJobs(channels, key, {v1::JOB_STATE_PENDING, v1::JOB_STATE_QUEUED}, channels.size()));
  if (jobs.size() < channels.size() || options.changes > options.connections)
    return absl::FailedPreconditionError("there are not enough waiting jobs to watch");
  const absl::Duration began = clock.MonotonicNow();
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (size_t i = 0; i < channels.size(); ++i) {
    watchers.push_back(std::make_unique<Watcher>(channels[i], key, jobs[i], clock));
    watchers.back()->Start();
  }
  for (const auto& watcher : watchers) {
    while (!watcher->opened() && !watcher->ended()) clock.Sleep(absl::Milliseconds(1));
  }
  const absl::Duration opened = clock.MonotonicNow() - began;
  absl::StatusOr<Json> report = PauseWatched(options, channels, key, watchers, clock);
  if (report.ok()) {
    const absl::Duration left = began + opened + options.time - clock.MonotonicNow();
    if (left > absl::ZeroDuration()) clock.Sleep(left);
    int64_t broken = 0, messages = 0;
    for (const auto& watcher : watchers) {
      broken += watcher->ended();
      messages += watcher->messages();
    }
    (*report)["streams"] = watchers.size();
    (*report)["broken"] = broken;
    (*report)["messages"] = messages;
    (*report)["all_opened_seconds"] = absl::ToDoubleSeconds(opened);
  }
  for (const auto& watcher : watchers) watcher->Cancel();
  for (const auto& watcher : watchers) watcher->AwaitEnd();
  return report;
}

absl::StatusOr<std::optional<Options>> ParseOptions(int argc, const char* const* argv) {
  constexpr int kMany = 1'000'000;
  Options options;
  Flags flags("anneal-load", "Puts a coordinator under load and measures how it answers.");
  flags.Text("mode", &options.mode, "health, submit, get, list, fleet or watch.");
  flags.Text("target", &options.target, "host:port of the API, or of the fleet service for fleet.");
  flags.Text("tls-ca-file", &options.tls.ca_file, "PEM authority of the coordinator.");
  flags.Text("tls-certificate-file", &options.tls.certificate_file, "Our PEM certificate.");
  flags.Text("tls-key-file", &options.tls.key_file, "PEM key of the certificate.");
  flags.Text("credentials-file", &options.credentials_file, "The first key in it is sent.");
  flags.Text("model", &options.model, "submit: model of the jobs.");
  flags.Text("train", &options.train, "submit: training data of the jobs.");
  flags.Integer("connections", &options.connections,
                "Connections; also the number of workers or streams.", 1, kMany);
  flags.Integer("in-flight", &options.in_flight, "Calls under way at a time.", 1, kMany);
  flags.Integer("warm-up", &options.warm_up, "Calls before those that are measured.", 0, kMany);
  flags.Integer("calls", &options.calls, "Calls to make; 0: as many as --time allows.", 0, kMany);
  flags.Integer("changes", &options.changes, "watch: jobs to pause.", 0, kMany);
  flags.Duration("time", &options.time, "How long to go on, but for fleet.");
  ANNEAL_ASSIGN_OR_RETURN(const bool run, flags.Parse(argc, argv));
  if (!run) return std::optional<Options>();
  return std::optional<Options>(std::move(options));
}

absl::StatusOr<Json> Run(const Options& options) {
  Clock& clock = Clock::Real();
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<Credential> credentials,
                          ReadCredentialsFile(options.credentials_file));
  const std::string& key = credentials.front().key;
  ANNEAL_ASSIGN_OR_RETURN(const Channels channels, Connect(options.target, options.tls,
                                                           options.connections, kConnectTimeout));
  if (options.mode == "fleet") return RunFleet(channels, key, clock);
  if (options.mode == "watch") return RunWatch(options, channels, key, clock);
  for (const char* calls : {"health", "submit", "get", "list"}) {
    if (options.mode == calls) return RunCalls(options, channels, key, clock);
  }
  return absl::InvalidArgumentError(absl::StrCat("--mode '", options.mode, "' is unknown"));
}

int Main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
#ifdef NDEBUG
  // Debian's Abseil looks for deadlocks at each lock: a cost that is the load's own.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  const auto fail = [](const absl::Status& status) {
    std::fprintf(stderr, "anneal-load: %s\n", std::string(status.message()).c_str());
    return absl::IsInvalidArgument(status) ? 2 : 1;
  };
  const absl::StatusOr<std::optional<Options>> options = ParseOptions(argc, argv);
  if (!options.ok()) return fail(options.status());
  if (!options->has_value()) return 0;
  const absl::StatusOr<Json> report = Run(**options);
  if (!report.ok()) return fail(report.status());
  Print(*report);
  return 0;
}

}  // namespace
}  // namespace anneal::load

int main(int argc, char** argv) { return anneal::load::Main(argc, argv); }
