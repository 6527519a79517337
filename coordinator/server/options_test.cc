#include "coordinator/server/options.h"

#include <string>

#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

CoordinatorOptions Valid() {
  CoordinatorOptions options;
  options.data_dir = "/nowhere/data";
  options.storage_root = "/nowhere/storage";
  options.credentials_file = "/nowhere/credentials";
  return options;
}

TEST(CoordinatorOptionsTest, WorkersFromOtherMachinesShowACertificate) {
  CoordinatorOptions options = Valid();
  options.tls_certificate_file = "/nowhere/tls.crt";
  options.tls_key_file = "/nowhere/tls.key";
  for (const char* local : {"127.0.0.1:7444", "[::1]:7444", "localhost:7444", "unix:/run/fleet"}) {
    options.fleet_listen = local;
    EXPECT_THAT(options.Complete(), IsOk()) << local;
  }
  for (const char* remote : {"0.0.0.0:7444", "[::]:7444", "127.example.com:7444"}) {
    options.fleet_listen = remote;
    EXPECT_THAT(options.Complete(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--fleet-client-ca-file")))
        << remote;
  }
  options.insecure_allow_remote = true;
  EXPECT_THAT(options.Complete(), IsOk());
  options.insecure_allow_remote = false;
  options.fleet_client_ca_file = "/nowhere/ca.crt";
  EXPECT_THAT(options.Complete(), IsOk());
}

}  // namespace
}  // namespace anneal
