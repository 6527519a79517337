#pragma once
// The coordinator as a whole.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/format/model_directory.h"
#include "common/metrics/admin_server.h"
#include "common/metrics/host_metrics.h"
#include "common/metrics/metrics.h"
#include "common/metrics/sampler.h"
#include "common/rpc/authentication.h"
#include "common/rpc/certificate_metrics.h"
#include "common/rpc/served_methods.h"
#include "common/rpc/server.h"
#include "common/storage/storage_root.h"
#include "coordinator/api/allowed_roots.h"
#include "coordinator/api/artifact_service.h"
#include "coordinator/api/audit_log.h"
#include "coordinator/api/client_authenticator.h"
#include "coordinator/api/cluster_service.h"
#include "coordinator/api/file_library.h"
#include "coordinator/api/file_service.h"
#include "coordinator/api/fine_tuning_service.h"
#include "coordinator/api/fleet_examiner.h"
#include "coordinator/api/key_service.h"
#include "coordinator/api/model_library.h"
#include "coordinator/api/model_service.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/spec_resolver.h"
#include "coordinator/api/stream_pump.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/catalog_store.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/catalog/key_store.h"
#include "coordinator/catalog/resource_store.h"
#include "coordinator/catalog/usage_ledger.h"
#include "coordinator/catalog/wal_checkpointer.h"
#include "coordinator/collection/storage_collector.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/fleet/fleet_service.h"
#include "coordinator/server/control_loop.h"
#include "coordinator/server/coordinator_metrics.h"
#include "coordinator/server/options.h"

namespace anneal {

// Purpose: makes, owns and wires everything; the only place that creates objects. A process may
// hold several, in different folders (tests do). Thread-safe where it is not construction or
// destruction.
class Coordinator {
 public:
  // Serves when it returns. FAILED_PRECONDITION if another coordinator uses the data folder.
  // `clock` and `random` outlive it.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(const CoordinatorOptions& options,
                                                            Clock& clock, Random& random);
  // Stops cleanly: refuses new calls, ends streams, lets the loop finish its turn.
  ~Coordinator();

  std::vector<std::string> api_addresses() const;
  const std::string& fleet_address() const { return fleet_server_->address(); }
  // What the API's and the fleet's addresses serve.
  ServedMethods methods() const;
  // Empty if there is no admin endpoint.
  std::string admin_address() const { return admin_ == nullptr ? "" : admin_->address(); }

 private:
  Coordinator(CoordinatorOptions options, Clock& clock, Random& random);
  absl::Status LockDataDir();
  absl::Status OpenStores();
  absl::Status OpenKeys();
  absl::Status StartServing();
  absl::Status StartLocalAdmin();
  Interceptors Audited(const Authenticator& authenticator);
  absl::Status WriteAddressFile() const;
  void StartSampling();

  // Declared in the order in which they depend on each other, so that they go in the reverse one.
  const CoordinatorOptions options_;
  Clock& clock_;
  Random& random_;
  // Held while we live; closed last.
  int lock_fd_ = -1;
  MetricRegistry registry_;
  CoordinatorMetrics metrics_;
  RpcMetrics rpc_metrics_;
  HostMetrics host_metrics_;
  CertificateMetrics certificate_metrics_;
  SamplerMetrics sampler_metrics_;
  LimitMetrics limit_metrics_;
  AllowedRoots allowed_roots_;
  FileHashCache hashes_;
  FleetRoster roster_;
  Catalog catalog_;
  std::unique_ptr<ApiKeyAuthenticator> authenticator_;
  const LocalAdminAuthenticator local_admin_;
  std::unique_ptr<StorageRoot> storage_;
  std::unique_ptr<StorageOutputPublisher> outputs_;
  std::unique_ptr<ResourceStore> resources_;
  std::unique_ptr<ProjectLimits> limits_;
  std::unique_ptr<ClientAuthenticator> clients_;
  std::unique_ptr<WorkerAuthenticator> workers_;
  std::unique_ptr<KeyStore> keys_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<JobHistory> history_;
  std::unique_ptr<UsageLedger> usage_;
  std::unique_ptr<CatalogStore> store_;
  std::unique_ptr<StepMetricsWriter> steps_;
  std::unique_ptr<WalCheckpointer> checkpointer_;
  std::unique_ptr<ControlLoop> loop_;
  std::unique_ptr<StorageCollector> collector_;
  std::unique_ptr<FleetExaminer> examiner_;
  std::unique_ptr<SpecResolver> resolver_;
  std::unique_ptr<StreamPump> pump_;
  TransferPool transfers_{{.max_project_streams = options_.limits.project_transfers}};
  // What is short: so that no upload keeps a submit waiting.
  TransferPool calls_{{.name = "call"}};
  std::unique_ptr<FileLibrary> files_;
  std::unique_ptr<ModelLibrary> models_;
  std::unique_ptr<FineTuningServiceImpl> fine_tuning_service_;
  std::unique_ptr<ClusterServiceImpl> cluster_service_;
  std::unique_ptr<FileServiceImpl> file_service_;
  std::unique_ptr<ArtifactServiceImpl> artifact_service_;
  std::unique_ptr<ModelServiceImpl> model_service_;
  std::unique_ptr<KeyServiceImpl> key_service_;
  std::unique_ptr<KeyServiceImpl> local_key_service_;
  std::unique_ptr<FleetServiceImpl> fleet_service_;
  std::unique_ptr<RpcServer> fleet_server_;
  std::vector<std::unique_ptr<RpcServer>> api_servers_;
  std::unique_ptr<RpcServer> local_server_;
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<Sampler> sampler_;
};

}  // namespace anneal
