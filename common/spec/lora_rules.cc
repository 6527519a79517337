#include "common/spec/lora_rules.h"

#include <map>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/format/model_tensors.h"

namespace anneal::spec {
namespace {

constexpr char kConflict[] = "CONFLICT";
constexpr char kTooMany[] = "TOO_MANY";
constexpr char kUnknownModule[] = "UNKNOWN_MODULE";
constexpr int kMaxNames = 1000;
constexpr int kMaxRank = 1024;
// The longest of a known family has some 40.
constexpr size_t kMaxNameBytes = 200;

class LoraModules {
 public:
  LoraModules(const v1::LoraMethod& lora, const std::vector<std::string>& linear_modules,
              FieldRules* fields, IssueList* issues)
      : lora_(lora), modules_(linear_modules), fields_(*fields), issues_(*issues) {
    for (const std::string& module : modules_) {
      const std::string suffix = module.substr(module.rfind('.') + 1);
      if (!absl::c_linear_search(suffixes_, suffix)) suffixes_.push_back(suffix);
    }
  }

  void Check() {
    Targets();
    Pattern(
        "method.lora.rank_pattern", lora_.rank_pattern(),
        [this](const std::string& path, int rank) { fields_.CheckRange(path, rank, 1, kMaxRank); });
    Pattern("method.lora.alpha_pattern", lora_.alpha_pattern(),
            [this](const std::string& path, double alpha) {
              fields_.CheckDouble(path, alpha, alpha > 0, "above 0");
            });
    SavedModules();
  }

 private:
  bool TooMany(const char* field, int count) {
    if (count <= kMaxNames) return false;
    issues_.AddError(kTooMany, field, absl::StrCat(count, " modules; at most ", kMaxNames));
    return true;
  }

  bool TooLong(const std::string& path, const std::string& name) {
    if (name.size() <= kMaxNameBytes) return false;
    issues_.AddError(
        kTooLong, path,
        absl::StrCat("has ", name.size(), " bytes; a module's name has at most ", kMaxNameBytes));
    return true;
  }

  bool NamesAny(const std::string& name) const {
    return absl::c_any_of(modules_,
                          [&](const std::string& module) { return NamesModule(module, name); });
  }

  void UnknownModule(const std::string& path, const std::string& name) {
    const std::string match = ClosestMatch(name, suffixes_);
    issues_.AddError(
        kUnknownModule, path,
        absl::StrCat("the model has no linear layer '", name, "'; there are ",
                     absl::StrJoin(suffixes_, ", "), ", and all-linear for all of them"),
        match.empty() ? "" : absl::StrCat("did you mean ", match, "?"));
  }

  void Targets() {
    constexpr char kField[] = "method.lora.target_modules";
    const auto& targets = lora_.target_modules();
    if (TooMany(kField, targets.size())) return;
    for (int i = 0; i < targets.size(); ++i) {
      const std::string path = absl::StrCat(kField, "[", i, "]");
      if (TooLong(path, targets[i])) continue;
      if (targets[i].empty()) {
        issues_.AddError(kMissing, path, "is empty");
      } else if (targets[i] == kAllLinear) {
        if (targets.size() > 1) {
          issues_.AddError(kConflict, path, "all-linear covers every module; it stands alone",
                           "drop the others");
        }
      } else if (!modules_.empty() && !NamesAny(targets[i])) {
        UnknownModule(path, targets[i]);
      }
    }
  }

  template <typename Map, typename CheckValue>
  void Pattern(const char* field, const Map& pattern, const CheckValue& check_value) {
    if (TooMany(field, static_cast<int>(pattern.size()))) return;
    // A protobuf map has no order; issues have.
    for (const auto& [name, value] : std::map(pattern.begin(), pattern.end())) {
      // Part of the field's path, so cut.
      const std::string path = absl::StrCat(field, ".", name.substr(0, kMaxNameBytes));
      if (TooLong(path, name)) continue;
      check_value(path, value);
      if (modules_.empty()) continue;
      if (!NamesAny(name)) {
        UnknownModule(path, name);
      } else if (!absl::c_any_of(modules_, [&](const std::string& module) {
                   return NamesModule(module, name) && IsLoraTarget(lora_, module);
                 })) {
        issues_.AddError(kConflict, path, "names no module of target_modules",
                         "add it to target_modules, or drop it here");
      }
    }
  }

  void SavedModules() {
    constexpr char kField[] = "method.lora.modules_to_save";
    if (TooMany(kField, lora_.modules_to_save_size())) return;
    for (int i = 0; i < lora_.modules_to_save_size(); ++i) {
      const std::string& name = lora_.modules_to_save(i);
      if (TooLong(absl::StrCat(kField, "[", i, "]"), name)) continue;
      if (NamesModule(kEmbeddingModule, name) || NamesModule(kHeadModule, name)) continue;
      issues_.AddError(kUnknownModule, absl::StrCat(kField, "[", i, "]"),
                       absl::StrCat("'", name, "' cannot be trained whole beside an adapter"),
                       "use embed_tokens or lm_head, or method.full for every weight");
    }
  }

  const v1::LoraMethod& lora_;
  const std::vector<std::string>& modules_;
  FieldRules& fields_;
  IssueList& issues_;
  std::vector<std::string> suffixes_;  // of modules_, in their order
};

}  // namespace

bool IsLoraTarget(const v1::LoraMethod& lora, const std::string& module) {
  return absl::c_any_of(lora.target_modules(), [&](const std::string& target) {
    return target == kAllLinear || NamesModule(module, target);
  });
}

void CheckLoraModules(const v1::LoraMethod& lora, const std::vector<std::string>& linear_modules,
                      FieldRules* fields, IssueList* issues) {
  LoraModules(lora, linear_modules, fields, issues).Check();
}

}  // namespace anneal::spec
