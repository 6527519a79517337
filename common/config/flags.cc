#include "common/config/flags.h"

#include <CLI/CLI.hpp>

#include <istream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/version.h"
#include "common/config/units.h"
#include "yaml-cpp/yaml.h"

namespace anneal {
namespace {

constexpr char kConfigFlag[] = "--config";

// Reads a flat YAML map into what CLI11 takes for flags.
class YamlConfig : public CLI::Config {
 public:
  explicit YamlConfig(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    YAML::Node root;
    try {
      root = YAML::Load(input);
    } catch (const YAML::Exception& e) {
      throw Error(e.mark, e.msg);
    }
    std::vector<CLI::ConfigItem> items;
    if (root.IsNull()) return items;
    if (!root.IsMap()) throw Error(root.Mark(), "the file is not a map of `key: value` lines");
    std::set<std::string> seen;
    for (const auto& entry : root) {
      CLI::ConfigItem item = ReadEntry(entry.first, entry.second);
      if (!seen.insert(item.name).second)
        throw Error(entry.first.Mark(), absl::StrCat(item.name, " is given twice"));
      items.push_back(std::move(item));
    }
    return items;
  }

  // Writing files is not offered.
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return ""; }

 private:
  static CLI::ConfigError Error(const YAML::Mark& mark, const std::string& message) {
    return CLI::ConfigError(
        absl::StrCat("line ", mark.line + 1, " column ", mark.column + 1, ": ", message),
        CLI::ExitCodes::ConfigError);
  }

  CLI::ConfigItem ReadEntry(const YAML::Node& key, const YAML::Node& value) const {
    CLI::ConfigItem item;
    if (!key.IsScalar()) throw Error(key.Mark(), "a key is a plain word");
    const std::string flag = absl::StrCat("--", absl::StrReplaceAll(key.Scalar(), {{"_", "-"}}));
    if (app_.get_option_no_throw(flag) == nullptr || flag == kConfigFlag ||
        key.Scalar().find('-') != std::string::npos) {
      throw Error(key.Mark(), absl::StrCat("unknown key '", key.Scalar(),
                                           "'; --help lists the flags, keys have _ for -"));
    }
    item.name = flag.substr(2);
    if (value.IsScalar()) {
      item.inputs.push_back(value.Scalar());
    } else if (value.IsSequence()) {
      for (const YAML::Node& element : value) {
        if (!element.IsScalar())
          throw Error(element.Mark(), absl::StrCat(key.Scalar(), " is a list of plain values"));
        item.inputs.push_back(element.Scalar());
      }
    } else {
      throw Error(value.Mark(), absl::StrCat(key.Scalar(), " needs a value"));
    }
    return item;
  }

  const CLI::App& app_;
};

// Lets `parse` (text -> StatusOr<T>) check and store one value, with the default shown as `shown`.
template <typename T, typename ParseFn>
void AddParsed(CLI::App& app, const std::string& name, T* field, const std::string& help,
               const std::string& type, const std::string& shown, ParseFn parse) {
  app.add_option_function<std::string>(
         absl::StrCat("--", name),
         [=](const std::string& text) {
           absl::StatusOr<T> value = parse(text);
           if (!value.ok())
             throw CLI::ValidationError(absl::StrCat("--", name),
                                        std::string(value.status().message()));
           *field = *value;
         },
         help)
      ->type_name(type)
      ->default_str(shown);
}

}  // namespace

Flags::Flags(const std::string& program, const std::string& purpose)
    : app_(std::make_unique<CLI::App>(purpose, program)) {
  app_->set_help_flag("--help", "Print this help and exit");
  app_->set_version_flag("--version", absl::StrCat(program, " ", std::string(Version())),
                         "Print the version and exit");
  app_->set_config(kConfigFlag, "",
                   "YAML file with the same settings, `_` for `-`; flags win over it");
  app_->config_formatter(std::make_shared<YamlConfig>(*app_));
}

Flags::~Flags() = default;

void Flags::Text(const std::string& name, std::string* field, const std::string& help) {
  app_->add_option(absl::StrCat("--", name), *field, help)->capture_default_str();
}

void Flags::TextList(const std::string& name, std::vector<std::string>* field,
                     const std::string& help) {
  // One value per flag: `--root a b` would swallow what follows.
  app_->add_option(absl::StrCat("--", name), *field, help)
      ->allow_extra_args(false)
      ->capture_default_str();
}

void Flags::Switch(const std::string& name, bool* field, const std::string& help) {
  app_->add_flag(absl::StrCat("--", name), *field, help);
}

void Flags::Integer(const std::string& name, int* field, const std::string& help, int min,
                    int max) {
  app_->add_option(absl::StrCat("--", name), *field, help)
      ->check(CLI::Range(min, max))
      ->capture_default_str();
}

void Flags::Duration(const std::string& name, absl::Duration* field, const std::string& help,
                     absl::Duration min) {
  AddParsed(*app_, name, field, help, "DURATION", absl::FormatDuration(*field),
            [min](const std::string& text) -> absl::StatusOr<absl::Duration> {
              absl::Duration value;
              if (!absl::ParseDuration(text, &value)) {
                return absl::InvalidArgumentError(absl::StrCat(
                    "'", text, "' is not a duration; write for example 250ms, 10s or 1h30m"));
              }
              if (value < min) {
                return absl::InvalidArgumentError(
                    absl::StrCat("is ", text, ", below ", absl::FormatDuration(min)));
              }
              return value;
            });
}

void Flags::Bytes(const std::string& name, int64_t* field, const std::string& help, int64_t min) {
  AddParsed(*app_, name, field, help, "SIZE", FormatBytes(*field), [min](const std::string& text) {
    absl::StatusOr<int64_t> value = ParseBytes(text);
    if (value.ok() && *value < min)
      value = absl::InvalidArgumentError(absl::StrCat("is ", text, ", below ", FormatBytes(min)));
    return value;
  });
}

absl::StatusOr<bool> Flags::Parse(int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
    return true;
  } catch (const CLI::Success& asked) {
    app_->exit(asked);
    return false;
  } catch (const CLI::ConfigError& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(app_->get_config_ptr()->as<std::string>(), ": ", e.what()));
  } catch (const CLI::ParseError& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(e.what(), " (", app_->get_name(), " --help lists the flags)"));
  }
}

}  // namespace anneal
