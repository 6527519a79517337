#include "common/host/check.h"

#include <string>

namespace anneal {
namespace {

v1::Check MakeCheck(absl::string_view name, v1::Check::Verdict verdict, absl::string_view measured,
                    absl::string_view advice) {
  v1::Check check;
  check.set_name(std::string(name));
  check.set_verdict(verdict);
  check.set_measured(std::string(measured));
  check.set_advice(std::string(advice));
  return check;
}

}  // namespace

v1::Check OkCheck(absl::string_view name, absl::string_view measured) {
  return MakeCheck(name, v1::Check::VERDICT_OK, measured, "");
}
v1::Check WarningCheck(absl::string_view name, absl::string_view measured,
                       absl::string_view advice) {
  return MakeCheck(name, v1::Check::VERDICT_WARNING, measured, advice);
}
v1::Check FailedCheck(absl::string_view name, absl::string_view measured,
                      absl::string_view advice) {
  return MakeCheck(name, v1::Check::VERDICT_FAILED, measured, advice);
}

}  // namespace anneal
