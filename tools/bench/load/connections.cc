#include "tools/bench/load/connections.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/pem_file.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace anneal::load {

absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> Connect(const std::string& target,
                                                                    const TlsFiles& files,
                                                                    int count,
                                                                    absl::Duration timeout) {
  grpc::SslCredentialsOptions tls;
  ANNEAL_ASSIGN_OR_RETURN(tls.pem_root_certs, ReadPemFile(files.ca_file));
  if (!files.certificate_file.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(tls.pem_cert_chain, ReadPemFile(files.certificate_file));
    ANNEAL_ASSIGN_OR_RETURN(tls.pem_private_key, ReadPemFile(files.key_file));
  }
  const std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::SslCredentials(tls);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < count; ++i) {
    channels.push_back(grpc::CreateCustomChannel(target, credentials, arguments));
    channels.back()->GetState(/*try_to_connect=*/true);
  }
  const gpr_timespec deadline =
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_millis(absl::ToInt64Milliseconds(timeout), GPR_TIMESPAN));
  for (const std::shared_ptr<grpc::Channel>& channel : channels) {
    if (!channel->WaitForConnected(deadline))
      return absl::UnavailableError(
          absl::StrCat("no ", count, " connections to ", target, " within the time"));
  }
  return channels;
}

}  // namespace anneal::load
