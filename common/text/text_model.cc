#include "common/text/text_model.h"

#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/regular_file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr size_t kMaxTokenizerBytes = 256u << 20;
constexpr size_t kMaxTemplateBytes = 4u << 20;  // of the file; Compile() has a limit of its own

// A model's folder may be somebody's who puts a pipe there, so plain ReadSmallFile might wait.
absl::StatusOr<std::string> ReadText(const std::string& path, size_t max_bytes) {
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd file, OpenRegularFile(path));
  return ReadOpenFile(file.get(), path, max_bytes);
}

// The file's text, or nothing if it is absent.
absl::StatusOr<std::optional<std::string>> ReadIfPresent(const std::string& path,
                                                         size_t max_bytes) {
  absl::StatusOr<std::string> text = ReadText(path, max_bytes);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  if (!text.ok()) return text.status();
  return *std::move(text);
}

// The object in the file; empty if it is absent.
absl::StatusOr<Json> ReadObjectIfPresent(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const std::optional<std::string> text,
                          ReadIfPresent(path, JsonLimits().max_bytes));
  if (!text) return Json::object();
  absl::StatusOr<Json> json = ParseJson(*text);
  if (!json.ok()) return Annotate(json.status(), path);
  if (!json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  }
  return json;
}

// A token is written as a string or as an object with "content".
std::optional<std::string> TokenText(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return std::nullopt;
}

// Named special tokens, as transformers gathers them: every "..._token", the dictionary form of
// extra_special_tokens, and the older special_tokens_map.json where the config has no
// added_tokens_decoder.
Json NamedSpecialTokens(const Json& config, const Json& special_tokens_map) {
  Json named = Json::object();
  auto gather = [&](const Json& source) {
    for (const auto& [key, value] : source.items()) {
      if (!absl::EndsWith(key, "_token")) continue;
      if (const std::optional<std::string> text = TokenText(value)) named[key] = *text;
    }
    if (source.contains("extra_special_tokens") && source["extra_special_tokens"].is_object()) {
      for (const auto& [key, value] : source["extra_special_tokens"].items()) {
        if (const std::optional<std::string> text = TokenText(value)) named[key] = *text;
      }
    }
  };
  gather(config);
  if (!config.contains("added_tokens_decoder")) gather(special_tokens_map);
  return named;
}

// What tokenizer.json may lack: the config's added tokens by id, then special tokens by name and
// from the lists.
Json AddedTokens(const Json& config, const Json& special_tokens_map, const Json& named) {
  Json added = Json::array();
  std::set<std::string> seen;
  auto add = [&](const std::string& content, bool special, const Json& flags) {
    if (content.empty() || !seen.insert(content).second) return;
    auto flag = [&](const char* name, bool otherwise) {
      return flags.is_object() && flags.contains(name) && flags[name].is_boolean()
                 ? flags[name].get<bool>()
                 : otherwise;
    };
    added.push_back({{"content", content},
                     {"single_word", flag("single_word", false)},
                     {"lstrip", flag("lstrip", false)},
                     {"rstrip", flag("rstrip", false)},
                     {"normalized", flag("normalized", !special)},
                     {"special", flag("special", special)}});
  };
  if (config.contains("added_tokens_decoder") && config["added_tokens_decoder"].is_object()) {
    std::map<int64_t, const Json*> by_id;
    for (const auto& [key, value] : config["added_tokens_decoder"].items()) {
      int64_t id = 0;
      if (absl::SimpleAtoi(key, &id)) by_id[id] = &value;
    }
    for (const auto& [id, token] : by_id) {
      if (const std::optional<std::string> text = TokenText(*token)) add(*text, false, *token);
    }
  }
  for (const auto& [name, text] : named.items()) add(text.get<std::string>(), true, nullptr);
  for (const Json* source : {&config, &special_tokens_map}) {
    for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
      if (!source->contains(key) || !(*source)[key].is_array()) continue;
      for (const Json& token : (*source)[key]) {
        if (const std::optional<std::string> text = TokenText(token)) add(*text, true, token);
      }
    }
  }
  return added;
}

absl::StatusOr<std::optional<std::string>> TemplateOfConfig(const Json& config) {
  if (!config.contains("chat_template") || config["chat_template"].is_null()) return std::nullopt;
  const Json& value = config["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const Json& entry : value) {
      if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) continue;
      if (entry["name"] == "default" && entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
    return absl::InvalidArgumentError("chat_template: none of the named templates is \"default\"");
  }
  return absl::InvalidArgumentError(
      "chat_template: neither a string nor a list of named templates");
}

}  // namespace

absl::StatusOr<TextModel> LoadTextModel(const std::string& model_dir, absl::Time template_time) {
  TextModel model;
  const std::string tokenizer_path = absl::StrCat(model_dir, "/tokenizer.json");
  const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  const std::string template_path = absl::StrCat(model_dir, "/chat_template.jinja");
  ANNEAL_ASSIGN_OR_RETURN(const std::string tokenizer_json,
                          ReadText(tokenizer_path, kMaxTokenizerBytes));
  ANNEAL_ASSIGN_OR_RETURN(const Json config, ReadObjectIfPresent(config_path));
  ANNEAL_ASSIGN_OR_RETURN(const Json special_tokens_map,
                          ReadObjectIfPresent(absl::StrCat(model_dir, "/special_tokens_map.json")));

  model.special_tokens = NamedSpecialTokens(config, special_tokens_map);
  const Json added_tokens = AddedTokens(config, special_tokens_map, model.special_tokens);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::FromJson(tokenizer_json, DumpJson(added_tokens));
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), tokenizer_path);
  model.tokenizer = *std::move(tokenizer);
  if (model.special_tokens.contains("eos_token")) {
    model.eos_token = model.special_tokens["eos_token"].get<std::string>();
    model.eos_token_id = model.tokenizer->TokenToId(model.eos_token).value_or(-1);
  }

  ANNEAL_ASSIGN_OR_RETURN(std::optional<std::string> source,
                          ReadIfPresent(template_path, kMaxTemplateBytes));
  const std::string& origin = source ? template_path : config_path;
  if (!source) {
    absl::StatusOr<std::optional<std::string>> of_config = TemplateOfConfig(config);
    if (!of_config.ok()) return Annotate(of_config.status(), config_path);
    source = *std::move(of_config);
  }
  if (source) {
    auto chat_template = ChatTemplate::Compile(*source, model.special_tokens, template_time);
    if (!chat_template.ok()) {
      return Annotate(chat_template.status(), absl::StrCat(origin, ": chat template"));
    }
    model.chat_template = *std::move(chat_template);
  }

  Json identity = {{"tokenizer", Sha256Hex(tokenizer_json)},
                   {"added_tokens", added_tokens},
                   {"special_tokens", model.special_tokens},
                   {"chat_template", source ? Json(*source) : Json(nullptr)}};
  if (source && absl::StrContains(*source, "strftime_now")) {
    identity["template_time"] = absl::ToUnixSeconds(template_time);
  }
  model.fingerprint = Sha256Hex(DumpJson(identity));
  return model;
}

}  // namespace anneal
