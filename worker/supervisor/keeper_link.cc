#include "worker/supervisor/keeper_link.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"

namespace anneal {

namespace {

Json ToJson(const ProcessImage& image) {
  return {
      {"program", image.program}, {"environment", image.environment}, {"cpu_list", image.cpu_list}};
}

ProcessImage ImageFromJson(const Json& json) {
  return {.program = json.at("program"),
          .environment = json.at("environment").get<std::map<std::string, std::string>>(),
          .cpu_list = json.at("cpu_list")};
}

}  // namespace

std::string FormatKeeperLine(const KeeperLine& line) {
  Json json = Json::object();
  if (line.spawn.has_value()) {
    json["spawn"] = {{"slot", line.spawn->slot},
                     {"image", ToJson(line.spawn->image)},
                     {"start", protocol::ToJson(line.spawn->start)}};
  }
  if (line.spare.has_value())
    json["spare"] = {{"slot", line.spare->slot}, {"image", ToJson(line.spare->image)}};
  if (line.kill.has_value())
    json["kill"] = {{"run_dir", line.kill->run_dir}, {"signal", line.kill->signal}};
  if (line.changed.has_value()) json["changed"] = Json::object();
  if (line.drain.has_value()) json["drain"] = Json::object();
  if (line.spares.has_value()) json["spares"] = {{"slots", line.spares->slots}};
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
      line.spawn =
          SpawnRequest{.slot = spawn.at("slot"), .image = ImageFromJson(spawn.at("image"))};
      ANNEAL_ASSIGN_OR_RETURN(line.spawn->start, protocol::ChildStartFromJson(spawn.at("start")));
    } else if (json.contains("spare")) {
      line.spare = SpareRequest{.slot = json["spare"].at("slot"),
                                .image = ImageFromJson(json["spare"].at("image"))};
    } else if (json.contains("kill")) {
      line.kill = KillRequest{.run_dir = json["kill"].at("run_dir"),
                              .signal = json["kill"].at("signal").get<int>()};
    } else if (json.contains("changed")) {
      line.changed = ChangedNotice{};
    } else if (json.contains("drain")) {
      line.drain = DrainNotice{};
    } else if (json.contains("spares")) {
      line.spares = SparesNotice{json["spares"].at("slots").get<std::vector<std::string>>()};
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
