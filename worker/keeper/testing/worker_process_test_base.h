#pragma once
// The worker as it is deployed, for tests: real keeper, real daemon, child processes that speak the
// protocol (worker/daemon/testing/fake_child.cc), a coordinator over real gRPC.

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "anneal/internal/fleet_service.pb.h"
#include "common/base/temp_dir.h"
#include "common/protocol/run_folder_layout.h"
#include "gtest/gtest.h"
#include "worker/daemon/testing/fake_coordinator.h"

namespace anneal::testing {

inline constexpr char kJob[] = "01hf7yat00abcdefghjkmnpqrs";

protocol::TaskKey Rank(int rank, int64_t generation = 1);
protocol::TaskKey Prepare();

// A wish for a task whose child behaves as `mode` says.
internal::DesiredTask Want(const protocol::TaskKey& key, const std::string& mode,
                           const std::string& slot = "cpu0");

bool IsRunning(const internal::TaskObservation& task);
bool HasExited(const internal::TaskObservation& task);

// Waits for a fact of the operating system, which nothing announces. False after 30 s.
bool Await(absl::FunctionRef<bool()> condition);

// Processes whose command lines contain both texts, without this one. Arguments end in '\0'.
std::vector<pid_t> ProcessesWith(const std::string& text, const std::string& other = "");

// Every report of a child that ran until FINISH: steps 1 to n, then the result, which names n.
void ExpectWhole(const std::vector<std::string>& reports);

// One worker with two CPU slots in a folder of its own. At the end it is stopped, and nothing may
// be left of it.
class WorkerProcessTestBase : public ::testing::Test {
 protected:
  using FlagMap = std::map<std::string, std::string>;

  WorkerProcessTestBase();
  ~WorkerProcessTestBase() override;

  // `flags` replace or add to the usual ones.
  void StartWorker(FlagMap flags = {});
  // The keeper's exit status, or -1 after a signal.
  int AwaitKeeper();

  std::vector<pid_t> OurProcesses() const { return ProcessesWith(temp_.path()); }
  // 0, and a failed test, if there is none.
  pid_t DaemonPid() const;
  // Waits for a daemon whose incarnation is beyond `last`; returns it.
  int64_t AwaitIncarnationAfter(int64_t last);
  std::string RunFolderOf(const protocol::TaskKey& key) const;
  bool IsForgotten(const protocol::TaskKey& key) const;
  void AwaitNoTasks();
  // Lets the "run" task on slot cpu0 finish and checks all that it has told.
  void FinishAndExpectWhole(const protocol::TaskKey& key);

  const TempDir temp_;
  const std::string bin_dir_;
  const std::string state_dir_;
  FakeCoordinator coordinator_;
  pid_t keeper_ = 0;
  const std::string own_dir_;  // where this test and the programs lie
  std::string program_;        // the worker's, as an operator would name it
};

}  // namespace anneal::testing
