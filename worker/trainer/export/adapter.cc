#include "worker/trainer/export/adapter.h"

#include <filesystem>
#include <map>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/model_tensors.h"
#include "worker/trainer/export/tensor_file.h"

namespace anneal::trainer {
namespace {

constexpr char kPrefix[] = "base_model.model.";
constexpr char kTiedHead[] = "base_model.model.lm_head.weight";
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

// The modules that are trained whole, by their last names; null if there are none.
Json SavedModules(const std::vector<ParameterUnit>& units) {
  Json names;
  for (const auto& [unit, module] :
       {std::pair(&units.front(), kEmbeddingModule), std::pair(&units.back(), kHeadModule)}) {
    for (const ParameterSpec& spec : unit->parameters) {
      const absl::string_view name = module;
      if (spec.name == absl::StrCat(name, ".weight"))
        names.push_back(std::string(name.substr(name.rfind('.') + 1)));
    }
  }
  return names;
}

// A tied embedding that is trained: its one tensor is also the head's.
bool SavesTiedHead(const Decoder& decoder) {
  return decoder.config().tie_word_embeddings && !decoder.units().front().parameters.empty();
}

Json AdapterConfig(const protocol::LoraOptions& lora, const std::string& base_id,
                   const Decoder& decoder) {
  Json ranks = Json::object(), alphas = Json::object();
  for (const protocol::ModuleRank& entry : lora.rank_pattern) ranks[entry.module] = entry.rank;
  for (const protocol::ModuleAlpha& entry : lora.alpha_pattern) alphas[entry.module] = entry.alpha;
  Json config = {{"peft_type", "LORA"},
                 {"task_type", "CAUSAL_LM"},
                 {"base_model_name_or_path", base_id},
                 {"revision", nullptr},
                 {"inference_mode", true},
                 {"r", lora.rank},
                 {"lora_alpha", lora.alpha},
                 {"lora_dropout", lora.dropout},
                 {"use_rslora", lora.use_rslora},
                 {"target_modules", TargetNames(lora, decoder.units())},
                 {"bias", "none"},
                 {"fan_in_fan_out", false},
                 {"init_lora_weights", true},
                 {"modules_to_save", SavedModules(decoder.units())},
                 {"layers_to_transform", nullptr},
                 {"layers_pattern", nullptr},
                 {"rank_pattern", std::move(ranks)},
                 {"alpha_pattern", std::move(alphas)},
                 {"use_dora", false},
                 {"lora_bias", false},
                 {"auto_mapping", nullptr}};
  // Only where it matters: older versions of peft do not know it.
  if (SavesTiedHead(decoder)) config["ensure_weight_tying"] = true;
  return config;
}

// Options that would change the arithmetic may be absent, null, false or empty.
bool IsOff(const Json& value) {
  return value.is_null() || value == false || value == "none" ||
         ((value.is_object() || value.is_array()) && value.empty());
}

// A list of names, one name, or nothing.
absl::StatusOr<std::vector<std::string>> ReadNames(const std::string& path, const Json& json,
                                                   const char* field) {
  const Json value = json.value(field, Json());
  std::vector<std::string> names;
  if (value.is_null()) return names;
  for (const Json& name : value.is_array() ? value : Json::array({value})) {
    if (!name.is_string())
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " is not a list of names"));
    names.push_back(name.get<std::string>());
  }
  return names;
}

// Calls add(name, value) for each entry in order. peft takes the names as regular expressions; we
// take them as they are and refuse what would not be the same.
template <typename Add>
absl::Status ReadPattern(const std::string& path, const Json& json, const char* field,
                         const Add& add) {
  const Json pattern = json.value(field, Json());
  if (pattern.is_null()) return absl::OkStatus();
  if (!pattern.is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " is not an object"));
  for (auto entry = pattern.begin(); entry != pattern.end(); ++entry) {
    const std::string& name = entry.key();
    const Json& value = entry.value();
    const bool plain = absl::c_all_of(name, [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
    });
    const double number = value.is_number() ? value.get<double>() : 0;
    if (!plain || !(number > 0 && number < 1e9)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", field, ": \"", name, "\": ", DumpJson(value),
                       " is not a module's name and a number above 0"));
    }
    add(name, number);
  }
  return absl::OkStatus();
}

// peft stores a tied embedding that is trained under both names.
absl::Status TakeTiedHead(const std::string& path, const UnitValues& values,
                          std::map<std::string, at::Tensor>& by_name) {
  const auto head = by_name.find(kTiedHead);
  if (head == by_name.end() || !head->second.to(at::kFloat).equal(values.front().front())) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     ": the model ties embed_tokens and lm_head, but the adapter does not "
                     "save them as one (peft: ensure_weight_tying)"));
  }
  by_name.erase(head);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteAdapter(const protocol::LoraOptions& lora, const std::string& base_id,
                          const Decoder& decoder, const UnitValues& values,
                          const std::string& out_dir) {
  const std::vector<ParameterUnit>& units = decoder.units();
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
  if (SavesTiedHead(decoder)) tensors.push_back({kTiedHead, tensors.front().value});
  ANNEAL_RETURN_IF_ERROR(WriteTensorFile(out_dir + kWeightsFile, tensors));
  return WriteFileAtomically(out_dir + kConfigFile,
                             AdapterConfig(lora, base_id, decoder).dump(2) + "\n");
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
       {"bias", "use_dora", "lora_bias", "layers_to_transform", "exclude_modules", "fan_in_fan_out",
        "trainable_token_indices", "target_parameters"}) {
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
  ANNEAL_ASSIGN_OR_RETURN(lora.target_modules, ReadNames(path, json, "target_modules"));
  ANNEAL_ASSIGN_OR_RETURN(lora.modules_to_save, ReadNames(path, json, "modules_to_save"));
  ANNEAL_RETURN_IF_ERROR(
      ReadPattern(path, json, "rank_pattern", [&](const auto& name, double value) {
        lora.rank_pattern.push_back({name, static_cast<int32_t>(value)});
      }));
  ANNEAL_RETURN_IF_ERROR(
      ReadPattern(path, json, "alpha_pattern", [&](const auto& name, double value) {
        lora.alpha_pattern.push_back({name, value});
      }));
  return lora;
}

absl::StatusOr<UnitValues> ReadAdapterValues(const std::string& adapter_dir,
                                             const Decoder& decoder) {
  const std::string path = adapter_dir + kWeightsFile;
  ANNEAL_ASSIGN_OR_RETURN(std::vector<NamedTensor> tensors, ReadTensorFile(path));
  std::map<std::string, at::Tensor> by_name;
  for (NamedTensor& tensor : tensors) by_name[tensor.name] = std::move(tensor.value);
  UnitValues values;
  for (const ParameterUnit& unit : decoder.units()) {
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
  if (SavesTiedHead(decoder)) ANNEAL_RETURN_IF_ERROR(TakeTiedHead(path, values, by_name));
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
  if (adapter_dir.empty()) return Decoder::Load(model_dir, {.frozen = true}, kernels);
  ANNEAL_ASSIGN_OR_RETURN(options.lora, ReadAdapterConfig(adapter_dir));
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder,
                          Decoder::Load(model_dir, options, kernels));
  ANNEAL_ASSIGN_OR_RETURN(const UnitValues values, ReadAdapterValues(adapter_dir, *decoder));
  for (size_t u = 0; u < values.size(); ++u) decoder->Bind(static_cast<int>(u), values[u]);
  return decoder;
}

}  // namespace anneal::trainer
