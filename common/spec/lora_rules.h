#pragma once
// The checks of method.lora that need the model's modules.

#include <string>
#include <vector>

#include "anneal/v1/job.pb.h"
#include "common/spec/field_rules.h"
#include "common/spec/issues.h"

namespace anneal::spec {

// target_modules of a job that names none: every linear layer but the head.
inline constexpr char kAllLinear[] = "all-linear";

// Whether target_modules name the linear layer of this full name.
bool IsLoraTarget(const v1::LoraMethod& lora, const std::string& module);

// `linear_modules`: full names of the model's linear layers but the head; empty = unknown, then
// names are not checked. `lora` has its defaults filled in.
void CheckLoraModules(const v1::LoraMethod& lora, const std::vector<std::string>& linear_modules,
                      FieldRules* fields, IssueList* issues);

}  // namespace anneal::spec
