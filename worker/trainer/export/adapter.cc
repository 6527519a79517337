#include "worker/trainer/export/adapter.h"

#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/model_config.h"
#include "worker/trainer/export/tensor_file.h"

namespace anneal::trainer {
namespace {

constexpr char kPrefix[] = "base_model.model.";
constexpr char kConfigFile[] = "/adapter_config.json";
constexpr char kWeightsFile[] = "/adapter_model.safetensors";

// "all-linear" is spelt out, as peft does when it saves: servers want names.
std::vector<std::string> TargetNames(const protocol::LoraOptions& lora,
                                     const std::vector<ParameterUnit>& units) {
  if (lora.target_modules != std::vector<std::string>{"all-linear"}) return lora.target_modules;
  std::vector<std::string> names;
  for (const ParameterSpec& spec : units.at(1).parameters) {
    // model.layers.0.mlp.up_proj.lora_A.weight
    const std::string module = spec.name.substr(0, spec.name.rfind(".lora_"));
    const std::string name = module.substr(module.rfind('.') + 1);
    if (names.empty() || names.back() != name) names.push_back(name);
  }
  return names;
}

Json AdapterConfig(const protocol::LoraOptions& lora, const std::string& base_id,
                   const std::vector<std::string>& targets) {
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", base_id},
          {"revision", nullptr},
          {"inference_mode", true},
          {"r", lora.rank},
          {"lora_alpha", lora.alpha},
          {"lora_dropout", lora.dropout},
          {"use_rslora", lora.use_rslora},
          {"target_modules", targets},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"init_lora_weights", true},
          {"modules_to_save", nullptr},
          {"layers_to_transform", nullptr},
          {"layers_pattern", nullptr},
          {"rank_pattern", Json::object()},
          {"alpha_pattern", Json::object()},
          {"use_dora", false},
          {"lora_bias", false},
          {"auto_mapping", nullptr}};
}

// Options that would change the arithmetic may be absent, null, false or empty.
bool IsOff(const Json& value) {
  return value.is_null() || value == false || value == "none" ||
         ((value.is_object() || value.is_array()) && value.empty());
}

}  // namespace

absl::Status WriteAdapter(const protocol::LoraOptions& lora, const std::string& base_id,
                          const std::vector<ParameterUnit>& units, const UnitValues& values,
                          const std::string& out_dir) {
  std::error_code error;
  std::filesystem::create_directories(out_dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make ", out_dir));
  std::vector<NamedTensor> tensors;
  for (size_t u = 0; u < units.size(); ++u) {
    for (size_t i = 0; i < units[u].parameters.size(); ++i) {
      tensors.push_back({kPrefix + units[u].parameters[i].name,
                         values.at(u).at(i).to(at::kCPU, at::kFloat).contiguous()});
    }
  }
  ANNEAL_RETURN_IF_ERROR(WriteTensorFile(out_dir + kWeightsFile, tensors));
  return WriteFileAtomically(out_dir + kConfigFile,
                             AdapterConfig(lora, base_id, TargetNames(lora, units)).dump(2) + "\n");
}

absl::StatusOr<protocol::LoraOptions> ReadAdapterConfig(const std::string& adapter_dir) {
  const std::string path = adapter_dir + kConfigFile;
  ANNEAL_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, {.max_bytes = 1 << 20}));
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
  };
  if (!json.is_object()) return refuse("not a JSON object");
  if (json.value("peft_type", Json()) != "LORA") return refuse("peft_type is not \"LORA\"");
  for (const char* field :
       {"bias", "modules_to_save", "rank_pattern", "alpha_pattern", "use_dora", "lora_bias",
        "layers_to_transform", "fan_in_fan_out", "trainable_token_indices", "target_parameters"}) {
    if (json.contains(field) && !IsOff(json[field])) {
      return refuse(absl::StrCat(field, " = ", DumpJson(json[field]), " is not supported"));
    }
  }
  protocol::LoraOptions lora;
  const Json rank = json.value("r", Json()), alpha = json.value("lora_alpha", Json());
  if (!rank.is_number_integer() || rank.get<double>() < 1 || rank.get<double>() > 65536)
    return refuse("r is no rank");
  if (!alpha.is_number()) return refuse("lora_alpha is not a number");
  lora.rank = rank.get<int32_t>();
  lora.alpha = alpha.get<double>();
  lora.use_rslora = json.value("use_rslora", Json()) == true;
  const Json targets = json.value("target_modules", Json());
  lora.target_modules.clear();
  for (const Json& target : targets.is_array() ? targets : Json::array({targets})) {
    if (!target.is_string()) return refuse("target_modules is not a list of names");
    lora.target_modules.push_back(target.get<std::string>());
  }
  return lora;
}

absl::StatusOr<UnitValues> ReadAdapterValues(const std::string& adapter_dir,
                                             const std::vector<ParameterUnit>& units) {
  const std::string path = adapter_dir + kWeightsFile;
  ANNEAL_ASSIGN_OR_RETURN(std::vector<NamedTensor> tensors, ReadTensorFile(path));
  std::map<std::string, at::Tensor> by_name;
  for (NamedTensor& tensor : tensors) by_name[tensor.name] = std::move(tensor.value);
  UnitValues values;
  for (const ParameterUnit& unit : units) {
    std::vector<at::Tensor>& out = values.emplace_back();
    for (const ParameterSpec& spec : unit.parameters) {
      const auto it = by_name.find(kPrefix + spec.name);
      if (it == by_name.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, " lacks tensor \"", kPrefix, spec.name, "\""));
      }
      if (it->second.sizes() != at::IntArrayRef(spec.shape)) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": tensor \"", it->first, "\" has shape ", ShapeToString(it->second.sizes()),
            " where the model asks for ", ShapeToString(spec.shape)));
      }
      out.push_back(it->second.to(at::kFloat));
      by_name.erase(it);
    }
  }
  if (!by_name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor \"", by_name.begin()->first,
                                                   "\" belongs to no adapted module"));
  }
  return values;
}

absl::StatusOr<std::unique_ptr<Decoder>> LoadWithAdapter(const std::string& model_dir,
                                                         const std::string& adapter_dir,
                                                         Kernels& kernels) {
  DecoderOptions options;
  if (adapter_dir.empty()) return Decoder::Load(model_dir, options, kernels);
  ANNEAL_ASSIGN_OR_RETURN(options.lora, ReadAdapterConfig(adapter_dir));
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder,
                          Decoder::Load(model_dir, options, kernels));
  ANNEAL_ASSIGN_OR_RETURN(const UnitValues values,
                          ReadAdapterValues(adapter_dir, decoder->units()));
  for (size_t u = 0; u < values.size(); ++u) decoder->Bind(static_cast<int>(u), values[u]);
  return decoder;
}

}  // namespace anneal::trainer
