#pragma once
// A coordinator that lives in the test's process: keeps jobs, files and models in memory, resolves
// specs as the real one does, plays watch streams that the test wrote, and breaks where the test
// says. For the command line's tests.

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/metrics/metrics.h"
#include "common/rpc/server.h"
#include "tools/anneal/client.h"

namespace anneal::cli {

inline constexpr char kFakeKey[] = "fake-key-0123456789abcdef";

// Thread-safe. Listens on a free loopback port from construction to destruction.
class FakeCoordinator {
 public:
  FakeCoordinator();
  ~FakeCoordinator();

  const std::string& address() const { return server_->address(); }
  Context context(bool shares_disk = false) const;
  // Connected, with the right key.
  std::unique_ptr<Client> MakeClient(bool shares_disk = false) const;

  // Adds a job as it might stand in the catalog; newer than all before.
  v1::Job AddJob(const std::string& name, const std::string& display_name, v1::JobState state);
  v1::Job GetJob(const std::string& name) const;
  std::vector<v1::CreateJobRequest> created() const;
  // Every attempt to create a job, also those that were answered by an error.
  int create_calls() const;
  // So many calls of CreateJob are carried out but answered UNAVAILABLE.
  void LoseNextCreateAnswers(int count);

  // One WatchJob stream: these updates, then this status. A stream without a script sends the job
  // as it is and, if that has ended, ends; else it stays open until the client leaves.
  struct WatchScript {
    std::vector<v1::WatchJobResponse> updates;
    grpc::Status end;
  };
  void AddWatchScript(WatchScript script);
  std::vector<v1::WatchJobRequest> watch_requests() const;
  // Called by a server thread when a stream without a script has sent its snapshot.
  void OnIdleWatch(std::function<void()> callback);

  // One ReadJobLog stream: these chunks, then this status; before that, `at_end` may change the
  // job. A stream without a script says which rank it is and ends.
  struct LogScript {
    std::vector<std::string> chunks;
    grpc::Status end;
    std::function<void(v1::Job&)> at_end;
  };
  void AddLogScript(LogScript script);
  std::vector<v1::ReadJobLogRequest> log_requests() const;
  // These ranks have no log.
  void LoseLogs(const std::set<int>& ranks);
  // Changes a job as it stands; before each answer of GetJob.
  void ChangeJob(const std::string& name, const std::function<void(v1::Job&)>& change);
  void OnGetJob(std::function<void(v1::Job&)> change);
  // How many workers it lists, two a page.
  void SetWorkers(int count);

  // The next upload breaks after so many bytes.
  void BreakNextUploadAfter(int64_t bytes);
  std::map<std::string, std::string> file_contents() const;  // by "files/{file}"
  int64_t uploaded_bytes() const;

  std::vector<v1::ImportModelRequest> imports() const;

  void AddArtifact(const std::string& job, const std::string& path, const std::string& content);
  // What arrives differs from what was listed.
  void DamageArtifacts();

  // Of the time that it tells.
  void SetClockAhead(absl::Duration duration);
  // What CheckFleet answers; before, it is PERMISSION_DENIED.
  void SetFleetChecks(const v1::CheckFleetResponse& checks);

 private:
  class Jobs;
  class Files;
  class Models;
  class Artifacts;
  class Cluster;
  struct State;

  const std::unique_ptr<State> state_;
  const std::unique_ptr<Jobs> jobs_;
  const std::unique_ptr<Files> files_;
  const std::unique_ptr<Models> models_;
  const std::unique_ptr<Artifacts> artifacts_;
  const std::unique_ptr<Cluster> cluster_;
  MetricRegistry registry_;
  RpcMetrics metrics_{registry_};
  std::unique_ptr<RpcServer> server_;
};

}  // namespace anneal::cli
