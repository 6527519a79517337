#include "tools/anneal/doctor.h"

#include "gtest/gtest.h"

namespace anneal::cli {
namespace {

TEST(DoctorTest, FormatsALineForEachCheckAndThenTheAdvice) {
  v1::CheckFleetResponse found;
  const auto add = [&found](const char* machine, const char* name, v1::Check::Verdict verdict,
                            const char* measured, const char* advice) {
    v1::Check& check = *found.add_checks();
    check.set_machine(machine);
    check.set_name(name);
    check.set_verdict(verdict);
    check.set_measured(measured);
    check.set_advice(advice);
  };
  add("coordinator", "storage", v1::Check::VERDICT_OK, "renames are atomic", "");
  EXPECT_EQ(FormatChecks(found),
            "MACHINE      CHECK    VERDICT  FOUND\n"
            "coordinator  storage  ok       renames are atomic\n");
  add("workers/w1", "clock", v1::Check::VERDICT_WARNING, "2s ahead", "use NTP");
  add("workers/w1", "ports", v1::Check::VERDICT_FAILED, "none", "open some");
  EXPECT_EQ(FormatChecks(found),
            "MACHINE      CHECK    VERDICT  FOUND\n"
            "coordinator  storage  ok       renames are atomic\n"
            "w1           clock    warning  2s ahead\n"
            "w1           ports    FAILED   none\n"
            "what to do:\n"
            "w1, clock: use NTP\n"
            "w1, ports: open some\n");
}

}  // namespace
}  // namespace anneal::cli
