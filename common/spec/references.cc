#include "common/spec/references.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/random.h"

namespace anneal::spec {
namespace {

constexpr absl::string_view kFileScheme = "file://";
constexpr size_t kMaxReferenceBytes = 4096;

bool IsLowerAlphanumeric(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

std::string FileUriProblem(absl::string_view uri) {
  if (uri.size() > kMaxReferenceBytes)
    return absl::StrCat("a path is at most ", kMaxReferenceBytes, " bytes long");
  return absl::StrCat("'", uri,
                      "' is not of the form file:///absolute/path (without . or .. in it)");
}

}  // namespace

bool IsModelId(absl::string_view id) {
  if (id.empty() || id.size() > 63 || !IsLowerAlphanumeric(id[0])) return false;
  for (char c : id) {
    if (!IsLowerAlphanumeric(c) && c != '.' && c != '_' && c != '-') return false;
  }
  return true;
}

bool IsModelName(absl::string_view name) {
  return absl::ConsumePrefix(&name, "models/") && IsModelId(name);
}

bool IsJobModelName(absl::string_view name) {
  return absl::ConsumePrefix(&name, "jobs/") && absl::ConsumeSuffix(&name, "/artifacts/model") &&
         IsUlid(name);
}

bool IsFileName(absl::string_view name) {
  return absl::ConsumePrefix(&name, "files/") && IsUlid(name);
}

bool IsFileUri(absl::string_view uri) {
  if (uri.size() > kMaxReferenceBytes) return false;
  if (!absl::ConsumePrefix(&uri, kFileScheme) || uri.size() < 2 || uri[0] != '/') return false;
  if (absl::StrContains(uri, '\0')) return false;
  absl::ConsumeSuffix(&uri, "/");
  for (absl::string_view part : absl::StrSplit(uri.substr(1), '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

std::string ModelReferenceProblem(absl::string_view reference) {
  if (absl::StartsWith(reference, "file:"))
    return IsFileUri(reference) ? "" : FileUriProblem(reference);
  if (IsModelName(reference) || IsJobModelName(reference)) return "";
  return absl::StrCat("'", reference.substr(0, 128),
                      "' is none of models/{model}, jobs/{job}/artifacts/model, file:///folder");
}

std::string FileReferenceProblem(absl::string_view reference) {
  if (absl::StartsWith(reference, "file:"))
    return IsFileUri(reference) ? "" : FileUriProblem(reference);
  if (IsFileName(reference)) return "";
  return absl::StrCat("'", reference.substr(0, 128), "' is neither files/{file} nor file:///path");
}

std::string PathOfFileUri(absl::string_view uri) {
  absl::ConsumePrefix(&uri, kFileScheme);
  return std::string(uri);
}

}  // namespace anneal::spec
