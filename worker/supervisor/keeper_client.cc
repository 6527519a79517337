#include "worker/supervisor/keeper_client.h"

#include <string>
#include <vector>

#include "common/base/status.h"

namespace anneal {

absl::Status KeeperClient::Serve() {
  std::vector<std::string> lines;
  ANNEAL_RETURN_IF_ERROR(connection_.Read(&lines));
  for (const std::string& text : lines) {
    ANNEAL_ASSIGN_OR_RETURN(KeeperLine line, ParseKeeperLine(text));
    draining_ = draining_ || line.drain.has_value();
    if (line.spares.has_value()) spares_ = {line.spares->slots.begin(), line.spares->slots.end()};
  }
  return connection_.Flush();
}

}  // namespace anneal
