#include "worker/trainer/export/end_of_turn.h"

#include <algorithm>
#include <filesystem>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/text/text_model.h"

namespace anneal::trainer {
namespace {

// `value` is null, an id, or a list of ids.
void AddIds(const Json& value, std::vector<int64_t>& ids) {
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer()) continue;
    if (std::find(ids.begin(), ids.end(), id.get<int64_t>()) == ids.end())
      ids.push_back(id.get<int64_t>());
  }
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> EndOfTurnTokens(const std::string& model_dir,
                                                     const ModelConfig& config) {
  std::vector<int64_t> ids;
  if (const std::string path = model_dir + "/generation_config.json";
      std::filesystem::exists(path)) {
    ANNEAL_ASSIGN_OR_RETURN(const Json generation, ReadJsonFile(path));
    if (generation.is_object() && generation.contains("eos_token_id"))
      AddIds(generation["eos_token_id"], ids);
  }
  AddIds(Json(config.eos_token_ids), ids);
  ANNEAL_ASSIGN_OR_RETURN(const TextModel text, LoadTextModel(model_dir, absl::UnixEpoch()));
  if (text.eos_token_id >= 0) AddIds(Json(text.eos_token_id), ids);
  return ids;
}

}  // namespace anneal::trainer
