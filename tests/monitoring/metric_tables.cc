// Prints the metric tables of all programs as JSON: {program: [{name, type, help, labels}]}. What
// docs/metrics.md is made from, and what rules and dashboards are checked against.

#include <iostream>

#include "common/base/clock.h"
#include "common/format/json.h"
#include "common/metrics/host_metrics.h"
#include "common/metrics/sampler.h"
#include "common/rpc/certificate_metrics.h"
#include "common/rpc/server.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/server/coordinator_metrics.h"
#include "worker/daemon/gpu_metrics.h"
#include "worker/daemon/worker_metrics.h"

namespace anneal {
namespace {

Json Describe(const MetricRegistry& registry) {
  Json all = Json::array();
  for (const MetricDescription& metric : registry.Describe()) {
    all.push_back({{"name", metric.info.name},
                   {"type", metric.type},
                   {"help", metric.info.help},
                   {"labels", metric.info.labels}});
  }
  return all;
}

Json DescribeCoordinator() {
  MetricRegistry registry;
  const CoordinatorMetrics coordinator(registry);
  const RpcMetrics rpc(registry);
  const HostMetrics host(registry);
  const CertificateMetrics certificates(registry);
  const SamplerMetrics sampler(registry);
  const LimitMetrics limits(registry);
  return Describe(registry);
}

Json DescribeWorker() {
  MetricRegistry registry;
  const WorkerMetrics worker(registry, Clock::Real());
  const GpuMetrics gpus(registry);
  const HostMetrics host(registry);
  const CertificateMetrics certificates(registry);
  const SamplerMetrics sampler(registry);
  return Describe(registry);
}

}  // namespace
}  // namespace anneal

int main() {
  const anneal::Json tables = {{"anneal-coordinator", anneal::DescribeCoordinator()},
                               {"anneal-worker", anneal::DescribeWorker()}};
  std::cout << tables.dump(1) << "\n";
}
