#include "coordinator/server/coordinator.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/format/json.h"
#include "common/rpc/request_id.h"
#include "common/storage/file_system.h"
#include "coordinator/api/audit_interceptor.h"

namespace anneal {
namespace {

// How long calls under way may take to end when we stop.
constexpr absl::Duration kStopGrace = absl::Seconds(2);
// How often free space and certificates are looked at.
constexpr absl::Duration kSampleEvery = absl::Seconds(15);

}  // namespace

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(const CoordinatorOptions& options,
                                                                Clock& clock, Random& random) {
  std::unique_ptr<Coordinator> coordinator(new Coordinator(options, clock, random));
  ANNEAL_RETURN_IF_ERROR(coordinator->LockDataDir());
  ANNEAL_RETURN_IF_ERROR(coordinator->OpenStores());
  coordinator->StartSampling();
  ANNEAL_RETURN_IF_ERROR(coordinator->StartServing());
  ANNEAL_RETURN_IF_ERROR(coordinator->WriteAddressFile());
  return coordinator;
}

Coordinator::Coordinator(CoordinatorOptions options, Clock& clock, Random& random)
    : options_(std::move(options)),
      clock_(clock),
      random_(random),
      metrics_(registry_),
      rpc_metrics_(registry_),
      host_metrics_(registry_),
      certificate_metrics_(registry_),
      sampler_metrics_(registry_),
      limit_metrics_(registry_),
      allowed_roots_(options_.allowed_roots, {options_.storage_root, options_.data_dir}, clock_),
      hashes_(clock),
      catalog_(clock) {}

Coordinator::~Coordinator() {
  // Streams would wait for ever: they end first, then the servers, then the loop that answers their
  // calls.
  sampler_.reset();
  admin_.reset();
  if (pump_ != nullptr) pump_->Stop();
  for (const std::unique_ptr<RpcServer>& server : api_servers_) server->Shutdown(kStopGrace);
  api_servers_.clear();
  if (local_server_ != nullptr) local_server_->Shutdown(kStopGrace);
  local_server_.reset();
  if (fleet_server_ != nullptr) fleet_server_->Shutdown(absl::ZeroDuration());
  fleet_server_.reset();
  loop_.reset();
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

absl::Status Coordinator::LockDataDir() {
  ANNEAL_RETURN_IF_ERROR(FileSystem::Posix().MakeFolders(options_.data_dir));
  const std::string path = absl::StrCat(options_.data_dir, "/lock");
  lock_fd_ = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (lock_fd_ < 0)
    return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  if (::flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another coordinator uses ", options_.data_dir));
  }
  return absl::OkStatus();
}

absl::Status Coordinator::OpenKeys() {
  std::vector<Credential> credentials;
  if (!options_.credentials_file.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(credentials, ReadCredentialsFile(options_.credentials_file));
  }
  authenticator_ = std::make_unique<ApiKeyAuthenticator>(credentials, clock_);
  ANNEAL_ASSIGN_OR_RETURN(keys_, KeyStore::Open(options_.data_dir));
  ANNEAL_ASSIGN_OR_RETURN(
      audit_, AuditLog::Open(absl::StrCat(options_.data_dir, "/audit.log"), FileSystem::Posix()));
  return LoadKeys(*keys_, *authenticator_);
}

absl::Status Coordinator::OpenStores() {
  ANNEAL_RETURN_IF_ERROR(OpenKeys());
  ANNEAL_ASSIGN_OR_RETURN(
      storage_, StorageRoot::Open(options_.storage_root, FileSystem::Posix(), clock_, random_));
  outputs_ = std::make_unique<StorageOutputPublisher>(*storage_);
  ANNEAL_ASSIGN_OR_RETURN(resources_, ResourceStore::Open(options_.data_dir));
  limits_ = std::make_unique<ProjectLimits>(
      ProjectLimits::Parts{*resources_, catalog_, clock_, limit_metrics_}, options_.limits);
  clients_ = std::make_unique<ClientAuthenticator>(*authenticator_, *limits_);
  workers_ = std::make_unique<WorkerAuthenticator>(*authenticator_, *limits_);
  ANNEAL_ASSIGN_OR_RETURN(history_, JobHistory::Open(options_.data_dir));
  ANNEAL_ASSIGN_OR_RETURN(usage_, UsageLedger::Open(options_.data_dir));
  ANNEAL_ASSIGN_OR_RETURN(store_, CatalogStore::Open(options_.data_dir));
  ANNEAL_ASSIGN_OR_RETURN(steps_, StepMetricsWriter::Open(options_.data_dir));
  ANNEAL_ASSIGN_OR_RETURN(loop_, ControlLoop::Create({*store_, *steps_, catalog_, roster_,
                                                      *outputs_, metrics_, registry_, clock_},
                                                     {options_.fleet, options_.grow_after}));
  ANNEAL_ASSIGN_OR_RETURN(checkpointer_, WalCheckpointer::Start(options_.data_dir, clock_));
  return absl::OkStatus();
}

void Coordinator::StartSampling() {
  host_metrics_.build_info.Set(1, {"anneal-coordinator", Version()});
  sampler_ = std::make_unique<Sampler>(
      std::vector<Measurement>{
          {"certificates",
           [this] {
             absl::Status measured =
                 certificate_metrics_.Measure("server", options_.tls_certificate_file);
             measured.Update(
                 certificate_metrics_.MeasureAuthorities("client_ca", options_.client_ca_file));
             measured.Update(certificate_metrics_.MeasureAuthorities(
                 "fleet_client_ca", options_.fleet_client_ca_file));
             return measured;
           }},
          {"catalog",
           [this] { return host_metrics_.MeasureFileSystem("catalog", options_.data_dir); }},
          {"storage",
           [this] { return host_metrics_.MeasureFileSystem("storage", options_.storage_root); }}},
      kSampleEvery, sampler_metrics_, clock_);
}

absl::Status Coordinator::StartServing() {
  resolver_ = std::make_unique<SpecResolver>(SpecResolver::Parts{
      *resources_, catalog_, roster_, allowed_roots_, hashes_, storage_->path()});
  pump_ = std::make_unique<StreamPump>(catalog_);
  fine_tuning_service_ = std::make_unique<FineTuningServiceImpl>(FineTuningServiceImpl::Parts{
      *clients_, *limits_, *loop_, catalog_, *history_, *resolver_, *storage_, *pump_, calls_,
      transfers_, clock_, random_, options_.data_dir, options_.min_free_bytes});
  collector_ = std::make_unique<StorageCollector>(*storage_, catalog_, *resources_, clock_,
                                                  StorageCollector::Options());
  examiner_ = std::make_unique<FleetExaminer>(
      FleetExaminer::Parts{roster_, *loop_, *storage_, clock_, random_});
  cluster_service_ = std::make_unique<ClusterServiceImpl>(ClusterServiceImpl::Parts{
      *clients_, roster_, *loop_, *collector_, *examiner_, *usage_, clock_});
  files_ = std::make_unique<FileLibrary>(
      FileLibrary::Parts{*resources_, *limits_, *storage_, clock_, random_},
      FileLibrary::Options());
  file_service_ = std::make_unique<FileServiceImpl>(
      FileServiceImpl::Parts{*clients_, *limits_, *resources_, *files_, transfers_});
  artifact_service_ = std::make_unique<ArtifactServiceImpl>(
      ArtifactServiceImpl::Parts{*clients_, *limits_, catalog_, *storage_, transfers_});
  models_ = std::make_unique<ModelLibrary>(
      ModelLibrary::Parts{*resources_, *limits_, *storage_, allowed_roots_, hashes_, clock_});
  model_service_ = std::make_unique<ModelServiceImpl>(
      ModelServiceImpl::Parts{*clients_, *resources_, *models_, transfers_});
  key_service_ = std::make_unique<KeyServiceImpl>(
      KeyServiceImpl::Parts{*clients_, *authenticator_, *keys_, clock_, random_});
  fleet_service_ = std::make_unique<FleetServiceImpl>(*workers_, *loop_);
  loop_->Start();
  collector_->Start();

  ServerOptions server{.tls_certificate_file = options_.tls_certificate_file,
                       .tls_key_file = options_.tls_key_file,
                       .tls_client_ca_file = options_.client_ca_file,
                       .tls_client_certificate_optional = true,
                       .insecure_allow_remote = options_.insecure_allow_remote,
                       .quotas = options_.rpc};
  const std::vector<grpc::Service*> services = {fine_tuning_service_.get(), file_service_.get(),
                                                artifact_service_.get(),    model_service_.get(),
                                                cluster_service_.get(),     key_service_.get()};
  for (const std::string& address : options_.listen) {
    server.address = address;
    ANNEAL_ASSIGN_OR_RETURN(
        std::unique_ptr<RpcServer> started,
        RpcServer::Start(server, services, rpc_metrics_, clock_, Audited(*clients_)));
    api_servers_.push_back(std::move(started));
  }
  server.address = options_.fleet_listen;
  server.tls_client_ca_file = options_.fleet_client_ca_file;
  server.tls_client_certificate_optional = false;
  ANNEAL_ASSIGN_OR_RETURN(
      fleet_server_,
      RpcServer::Start(server, {fleet_service_.get()}, rpc_metrics_, clock_, Audited(*workers_)));
  if (!options_.admin_listen.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(admin_, AdminServer::Start({.address = options_.admin_listen,
                                                        .live = [this] { return loop_->live(); },
                                                        .ready = [this] { return loop_->ready(); }},
                                                       registry_));
  }
  ANNEAL_RETURN_IF_ERROR(StartLocalAdmin());
  for (const std::string& address : api_addresses())
    ANNEAL_LOG(INFO) << "serving" << Field("api", address);
  ANNEAL_LOG(INFO) << "serving" << Field("fleet", fleet_address())
                   << Field("admin", admin_address()) << Field("epoch", loop_->epoch());
  return absl::OkStatus();
}

Interceptors Coordinator::Audited(const Authenticator& authenticator) {
  Interceptors interceptors;
  interceptors.push_back(std::make_unique<RequestIdInterceptorFactory>(clock_, random_));
  interceptors.push_back(std::make_unique<AuditInterceptorFactory>(*audit_, authenticator, clock_));
  return interceptors;
}

absl::Status Coordinator::StartLocalAdmin() {
  if (options_.admin_socket.empty()) return absl::OkStatus();
  local_key_service_ = std::make_unique<KeyServiceImpl>(
      KeyServiceImpl::Parts{local_admin_, *authenticator_, *keys_, clock_, random_});
  ANNEAL_ASSIGN_OR_RETURN(
      local_server_,
      RpcServer::Start(
          {.address = absl::StrCat("unix:", options_.admin_socket), .quotas = options_.rpc},
          {local_key_service_.get()}, rpc_metrics_, clock_, Audited(local_admin_)));
  ANNEAL_LOG(INFO) << "serving" << Field("local_admin", local_server_->address());
  return absl::OkStatus();
}

std::vector<std::string> Coordinator::api_addresses() const {
  std::vector<std::string> addresses;
  for (const std::unique_ptr<RpcServer>& server : api_servers_)
    addresses.push_back(server->address());
  return addresses;
}

ServedMethods Coordinator::methods() const {
  ServedMethods methods = fleet_server_->methods();
  for (const std::unique_ptr<RpcServer>& server : api_servers_)
    methods.insert(server->methods().begin(), server->methods().end());
  return methods;
}

absl::Status Coordinator::WriteAddressFile() const {
  if (options_.address_file.empty()) return absl::OkStatus();
  Json addresses;
  addresses["api"] = api_servers_.front()->address();
  addresses["fleet"] = fleet_address();
  addresses["admin"] = admin_address();
  const std::string temporary = absl::StrCat(options_.address_file, ".tmp");
  {
    ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file,
                            FileSystem::Posix().OpenForAppend(temporary, 0));
    ANNEAL_RETURN_IF_ERROR(file->Append(absl::StrCat(DumpJson(addresses), "\n")));
    ANNEAL_RETURN_IF_ERROR(file->Sync());
  }
  return FileSystem::Posix().Rename(temporary, options_.address_file);
}

}  // namespace anneal
