#include "coordinator/api/key_service.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/paging.h"
#include "common/rpc/request_id.h"
#include "common/rpc/status.h"
#include "coordinator/api/resource_names.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {
namespace {

// Of randomness in a key: as much as its SHA-256 can keep.
constexpr int kKeyBytes = 32;
constexpr absl::string_view kListFilter = "keys";

Role RoleOf(v1::Key::Role role) {
  switch (role) {
    case v1::Key::ROLE_USER:
      return Role::kUser;
    case v1::Key::ROLE_ADMIN:
      return Role::kAdmin;
    case v1::Key::ROLE_WORKER:
      return Role::kWorker;
    default:
      return Role::kViewer;
  }
}

v1::Key::Role RoleToProto(absl::string_view name) {
  switch (RoleFrom(name).value_or(Role::kViewer)) {
    case Role::kViewer:
      return v1::Key::ROLE_VIEWER;
    case Role::kUser:
      return v1::Key::ROLE_USER;
    case Role::kAdmin:
      return v1::Key::ROLE_ADMIN;
    case Role::kWorker:
      return v1::Key::ROLE_WORKER;
  }
  return v1::Key::ROLE_VIEWER;
}

v1::Key KeyFrom(const internal::KeyRecord& record) {
  v1::Key key;
  key.set_name(absl::StrCat("keys/", record.id()));
  key.set_project(record.project());
  key.set_creator(record.creator());
  key.set_role(RoleToProto(record.role()));
  *key.mutable_create_time() = record.create_time();
  if (record.has_expire_time()) *key.mutable_expire_time() = record.expire_time();
  if (record.has_revoke_time()) *key.mutable_revoke_time() = record.revoke_time();
  key.set_certificate_subject(record.certificate_subject());
  return key;
}

absl::Status CheckRequest(const v1::CreateKeyRequest& request, absl::Time now) {
  std::vector<FieldViolation> wrong;
  const std::string form = "is [A-Za-z0-9._@-]{1,64}, without a dot in front";
  if (!IsIdentityName(request.project())) wrong.push_back({"project", form});
  if (!IsIdentityName(request.creator())) wrong.push_back({"creator", form});
  if (request.role() == v1::Key::ROLE_UNSPECIFIED || !v1::Key::Role_IsValid(request.role()))
    wrong.push_back({"role", "is viewer, user, admin or worker"});
  if (request.has_expire_time() && TimeOf(request.expire_time()) <= now)
    wrong.push_back({"expire_time", "lies in the past"});
  if (!request.certificate_subject().empty() &&
      !IsCertificateSubject(request.certificate_subject()))
    wrong.push_back({"certificate_subject", "is not of the form CN=name,O=organisation"});
  if (!request.certificate_subject().empty() && request.role() == v1::Key::ROLE_WORKER)
    wrong.push_back({"certificate_subject", "is for clients; a worker sends a key"});
  return wrong.empty() ? absl::OkStatus() : InvalidFields(wrong);
}

std::string ProofOf(const internal::KeyRecord& record) {
  return record.certificate_subject().empty() ? record.key_sha256()
                                              : ProofOfCertificate(record.certificate_subject());
}

// False if somebody is known by the same proof.
bool LetIn(const internal::KeyRecord& record, ApiKeyAuthenticator& known) {
  return known.Add(
      ProofOf(record),
      {record.project(), record.creator(), RoleFrom(record.role()).value_or(Role::kViewer)},
      record.has_expire_time() ? TimeOf(record.expire_time()) : absl::InfiniteFuture());
}

}  // namespace

absl::Status KeyServiceImpl::Create(const grpc::ServerContext& context,
                                    const v1::CreateKeyRequest& request,
                                    v1::CreateKeyResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller, parts_.gate.CallerOf(context, Right::kOperate));
  const absl::Time now = parts_.clock.TimeNow();
  ANNEAL_RETURN_IF_ERROR(CheckRequest(request, now));
  internal::KeyRecord record;
  record.set_id(NewUlid(now, parts_.random));
  if (request.certificate_subject().empty()) {
    response->set_secret(RandomHex(kKeyBytes, parts_.random));
    record.set_key_sha256(ProofOfKey(response->secret()));
  } else {
    record.set_certificate_subject(request.certificate_subject());
  }
  record.set_project(request.project());
  record.set_creator(request.creator());
  record.set_role(std::string(RoleName(RoleOf(request.role()))));
  *record.mutable_create_time() = TimestampOf(now);
  if (request.has_expire_time()) *record.mutable_expire_time() = request.expire_time();
  // Before it is on disk: of two requests for one subject only one may get there.
  if (!LetIn(record, parts_.known)) {
    return WithReason(absl::AlreadyExistsError(
                          absl::StrCat("a key stands for certificates of subject '",
                                       record.certificate_subject(), "' already; revoke it first")),
                      "CERTIFICATE_SUBJECT_TAKEN");
  }
  if (absl::Status status = parts_.store.Put(record); !status.ok()) {
    parts_.known.Remove(ProofOf(record));
    return status;
  }
  ANNEAL_LOG(INFO) << "API key made" << Field("key", record.id())
                   << Field("project", record.project()) << Field("creator", record.creator())
                   << Field("role", record.role()) << Field("by", caller.creator)
                   << Field("request_id", RequestIdOf(context));
  *response->mutable_key() = KeyFrom(record);
  return absl::OkStatus();
}

absl::Status KeyServiceImpl::List(const grpc::ServerContext& context,
                                  const v1::ListKeysRequest& request,
                                  v1::ListKeysResponse* response) {
  ANNEAL_RETURN_IF_ERROR(parts_.gate.CallerOf(context, Right::kOperate).status());
  ANNEAL_ASSIGN_OR_RETURN(const PageRequest page,
                          ParsePageRequest(request.page_size(), request.page_token(), kListFilter));
  // One more than is shown tells whether there is another page.
  ANNEAL_ASSIGN_OR_RETURN(std::vector<internal::KeyRecord> records,
                          parts_.store.List(page.after_id, page.size + 1));
  if (records.size() > static_cast<size_t>(page.size)) {
    records.pop_back();
    response->set_next_page_token(MakePageToken(records.back().id(), kListFilter));
  }
  for (const internal::KeyRecord& record : records) *response->add_keys() = KeyFrom(record);
  return absl::OkStatus();
}

absl::Status KeyServiceImpl::Revoke(const grpc::ServerContext& context,
                                    const v1::RevokeKeyRequest& request, v1::Key* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller, parts_.gate.CallerOf(context, Right::kOperate));
  ANNEAL_ASSIGN_OR_RETURN(const std::string id, KeyIdOf(request.name()));
  ANNEAL_ASSIGN_OR_RETURN(internal::KeyRecord record, parts_.store.Get(id));
  if (!record.has_revoke_time()) {
    *record.mutable_revoke_time() = TimestampOf(parts_.clock.TimeNow());
    ANNEAL_RETURN_IF_ERROR(parts_.store.Put(record));
    parts_.known.Remove(ProofOf(record));
    ANNEAL_LOG(INFO) << "API key revoked" << Field("key", id) << Field("by", caller.creator)
                     << Field("request_id", RequestIdOf(context));
  }
  *response = KeyFrom(record);
  return absl::OkStatus();
}

grpc::Status KeyServiceImpl::CreateKey(grpc::ServerContext* context,
                                       const v1::CreateKeyRequest* request,
                                       v1::CreateKeyResponse* response) {
  return ToGrpcStatus(Create(*context, *request, response));
}
grpc::Status KeyServiceImpl::ListKeys(grpc::ServerContext* context,
                                      const v1::ListKeysRequest* request,
                                      v1::ListKeysResponse* response) {
  return ToGrpcStatus(List(*context, *request, response));
}
grpc::Status KeyServiceImpl::RevokeKey(grpc::ServerContext* context,
                                       const v1::RevokeKeyRequest* request, v1::Key* response) {
  return ToGrpcStatus(Revoke(*context, *request, response));
}

absl::Status LoadKeys(KeyStore& store, ApiKeyAuthenticator& known) {
  constexpr int kAtOnce = 1000;
  std::string before;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const std::vector<internal::KeyRecord> records,
                            store.List(before, kAtOnce));
    for (const internal::KeyRecord& record : records) {
      if (!record.has_revoke_time()) {
        known.Remove(ProofOf(record));
        LetIn(record, known);
      } else if (record.certificate_subject().empty()) {
        // What a subject stands for may be agreed on anew; a secret that was taken back never is.
        known.Ban(record.key_sha256());
      }
    }
    if (records.size() < kAtOnce) return absl::OkStatus();
    before = records.back().id();
  }
}

absl::StatusOr<Caller> LocalAdminAuthenticator::Identify(const grpc::ServerContextBase&) const {
  return Caller{.project = "default", .creator = "local-admin", .role = Role::kAdmin};
}

}  // namespace anneal
