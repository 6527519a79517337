#include "worker/supervisor/keeper_link.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"

namespace anneal {

std::string FormatKeeperLine(const KeeperLine& line) {
  Json json = Json::object();
  if (line.spawn.has_value()) {
    json["spawn"] = {{"run_dir", line.spawn->run_dir},     {"program", line.spawn->program},
                     {"arguments", line.spawn->arguments}, {"environment", line.spawn->environment},
                     {"log_path", line.spawn->log_path},   {"lock_paths", line.spawn->lock_paths},
                     {"cpu_list", line.spawn->cpu_list}};
  }
  if (line.kill.has_value())
    json["kill"] = {{"run_dir", line.kill->run_dir}, {"signal", line.kill->signal}};
  if (line.changed.has_value()) json["changed"] = Json::object();
  if (line.drain.has_value()) json["drain"] = Json::object();
  return DumpJson(json);
}

absl::StatusOr<KeeperLine> ParseKeeperLine(absl::string_view text) {
  ANNEAL_ASSIGN_OR_RETURN(Json json,
                          ParseJson(text, {.max_bytes = protocol::kMaxLineBytes, .max_depth = 8}));
  // Both ends are one program of one version, so whatever is wrong is a bug of ours and one message
  // is enough.
  try {
    KeeperLine line;
    if (json.contains("spawn")) {
      const Json& spawn = json["spawn"];
      line.spawn = SpawnRequest{
          .run_dir = spawn.at("run_dir"),
          .program = spawn.at("program"),
          .arguments = spawn.at("arguments").get<std::vector<std::string>>(),
          .environment = spawn.at("environment").get<std::map<std::string, std::string>>(),
          .log_path = spawn.at("log_path"),
          .lock_paths = spawn.at("lock_paths").get<std::vector<std::string>>(),
          .cpu_list = spawn.at("cpu_list")};
    } else if (json.contains("kill")) {
      line.kill = KillRequest{.run_dir = json["kill"].at("run_dir"),
                              .signal = json["kill"].at("signal").get<int>()};
    } else if (json.contains("changed")) {
      line.changed = ChangedNotice{};
    } else if (json.contains("drain")) {
      line.drain = DrainNotice{};
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("not a line between keeper and daemon: ", text.substr(0, 100)));
    }
    return line;
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a line between keeper and daemon: ", e.what()));
  }
}

}  // namespace anneal
