// Any job file: refused with places, or a JobSpec that the resolver takes on without falling over.

#include "anneal/v1/job.pb.h"
#include "common/base/status.h"
#include "common/spec/resolve.h"
#include "common/spec/yaml_loader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  anneal::v1::JobSpec spec;
  for (const anneal::v1::Issue& issue : anneal::spec::LoadYaml(text, "job.yaml", &spec)) {
    ANNEAL_CHECK(!issue.message().empty() && issue.line() >= 0);
  }
  (void)anneal::spec::ResolveJob(spec, {});
  // The same bytes as an override from a command line.
  (void)anneal::spec::ApplyOverride(text, &spec);
  return 0;
}
