#include "common/spec/training_difference.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "common/spec/message_json.h"

namespace anneal::spec {
namespace {

// A final dot stands for all fields below. The model is compared by its content.
constexpr absl::string_view kDecideNothing[] = {
    "display_name", "labels",  "model",  "resources.", "training.sharding",
    "checkpoint.",  "limits.", "retry.", "priority",   "output."};

std::map<std::string, std::string> DecidingFields(const v1::ResolvedJob& job) {
  std::map<std::string, std::string> fields;
  ForEachLeaf(job.spec(), [&](const std::string& path, const google::protobuf::Message& parent,
                              const google::protobuf::FieldDescriptor& field) {
    const bool decides =
        std::none_of(std::begin(kDecideNothing), std::end(kDecideNothing), [&](auto name) {
          return absl::EndsWith(name, ".") ? absl::StartsWith(path, name) : path == name;
        });
    if (decides) fields[path] = DumpJson(FieldToJson(parent, field));
  });
  fields["model"] = job.model_content_hash();
  return fields;
}

}  // namespace

std::string TrainingDifference(const v1::ResolvedJob& one, const v1::ResolvedJob& other) {
  const std::map<std::string, std::string> left = DecidingFields(one),
                                           right = DecidingFields(other);
  const auto [a, b] = std::mismatch(left.begin(), left.end(), right.begin(), right.end());
  if (a == left.end() && b == right.end()) return "";
  if (a == left.end()) return b->first;
  if (b == right.end()) return a->first;
  return std::min(a->first, b->first);
}

}  // namespace anneal::spec
