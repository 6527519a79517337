#include "tools/anneal/client.h"

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/request_id.h"
#include "common/rpc/status.h"

namespace anneal::cli {

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const Context& context) {
  ANNEAL_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                          MakeChannel({.target = context.server,
                                       .tls = context.tls,
                                       .tls_ca_file = context.tls_ca_file,
                                       .tls_certificate_file = context.tls_certificate_file,
                                       .tls_key_file = context.tls_key_file,
                                       .sends_key = !context.api_key.empty(),
                                       .insecure_allow_remote = context.insecure_allow_remote}));
  return std::unique_ptr<Client>(new Client(context, channel));
}

Client::Client(const Context& context, const std::shared_ptr<grpc::Channel>& channel)
    : context_(context),
      request_id_(NewUlid(Clock::Real().TimeNow(), Random::Real())),
      jobs_(v1::FineTuningService::NewStub(channel)),
      files_(v1::FileService::NewStub(channel)),
      artifacts_(v1::ArtifactService::NewStub(channel)),
      models_(v1::ModelService::NewStub(channel)),
      cluster_(v1::ClusterService::NewStub(channel)),
      keys_(v1::KeyService::NewStub(channel)) {}

void Client::Prepare(grpc::ClientContext& context, absl::Duration timeout) const {
  PrepareCall(context, context_.api_key, timeout);
  context.AddMetadata(kRequestIdKey, request_id_);
}

absl::Status Client::ToStatus(const grpc::Status& status) const {
  absl::Status out = FromGrpcStatus(status);
  if (out.code() == absl::StatusCode::kUnavailable) {
    return Annotate(out, absl::StrCat("cannot reach the coordinator at ", context_.server,
                                      " (from ", context_.source, ")"));
  }
  return out;
}

}  // namespace anneal::cli
