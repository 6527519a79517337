#pragma once
// Counters, gauges and histograms on prometheus-cpp.
//
// Each folder declares its metrics in one struct, which is its table:
//
//   struct RpcMetrics {
//     explicit RpcMetrics(MetricRegistry& registry);
//     Counter requests;
//   };
//   RpcMetrics::RpcMetrics(MetricRegistry& registry)
//       : requests(registry, {"anneal_rpc_requests_total", "Calls finished.", {"method", "code"}})
//       {}
//   ...
//   metrics.requests.Increment({"CreateJob", "OK"});
//
// A series is named by its label values at each call, never by a kept reference, so that the series
// of a job can be removed while others write. Names follow anneal_<area>_<noun>_<unit>; counters
// end in _total. Label values are bounded: an id of something that ends goes with RemoveSeries.

#include <initializer_list>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/registry.h"

namespace anneal {

struct MetricInfo {
  std::string name;
  // One sentence, with the unit where the name does not say it.
  std::string help;
  std::vector<std::string> labels;
};

struct MetricDescription {
  MetricInfo info;
  std::string type;  // "counter", "gauge" or "histogram"
};

// One value per label, in the order of MetricInfo::labels.
using LabelValues = std::initializer_list<absl::string_view>;

// Names of labels and their values.
using SeriesLabels = std::vector<std::pair<absl::string_view, absl::string_view>>;

namespace internal {
// One metric as the registry sees it. Thread-safe.
class MetricFamily {
 public:
  MetricFamily(MetricInfo info, absl::string_view type);
  virtual ~MetricFamily() = default;
  virtual void RemoveSeries(const SeriesLabels& labels) = 0;
  virtual void RemoveSeries(absl::string_view label, const std::set<std::string>& values) = 0;
  const MetricInfo& info() const { return info_; }
  const std::string& type() const { return type_; }

 private:
  const MetricInfo info_;
  const std::string type_;
};
template <typename Metric>
class TypedFamily;
}  // namespace internal

// Owns every metric of a program. Thread-safe. Outlives the metrics made in it.
class MetricRegistry {
 public:
  MetricRegistry();
  ~MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  // Drops all series whose label `label` is one of `values`, in every metric that has the label:
  // what jobs leave behind. All series are looked at, so remove what goes together at once.
  void RemoveSeries(absl::string_view label, const std::set<std::string>& values);
  // The same for series that have all of `labels`: what one rank of a job leaves behind.
  void RemoveSeries(const SeriesLabels& labels);

  // Prometheus text exposition format 0.0.4.
  std::string Scrape() const;
  // All metrics in order of name: what docs/metrics.md is made from.
  std::vector<MetricDescription> Describe() const;

 private:
  friend class Counter;
  friend class Gauge;
  friend class Histogram;

  // Registers a metric; a second one of the same name is a bug of ours. The registry owns it.
  template <typename Metric, typename Builder>
  internal::TypedFamily<Metric>& Register(MetricInfo info, absl::string_view type, Builder builder);

  prometheus::Registry registry_;
  mutable absl::Mutex mu_;
  std::vector<std::unique_ptr<internal::MetricFamily>> families_ ABSL_GUARDED_BY(mu_);
};

// A total that never falls. Thread-safe.
class Counter {
 public:
  Counter(MetricRegistry& registry, MetricInfo info);
  void Increment(LabelValues values = {}) { Add(1, values); }
  // `amount` below zero or not a number is dropped.
  void Add(double amount, LabelValues values = {});

 private:
  internal::TypedFamily<prometheus::Counter>& family_;
};

// A value that goes up and down. Thread-safe.
class Gauge {
 public:
  Gauge(MetricRegistry& registry, MetricInfo info);
  void Set(double value, LabelValues values = {});
  // Drops the series: what it said does not hold any more.
  void Remove(LabelValues values = {});
  void Add(double amount, LabelValues values = {});

 private:
  internal::TypedFamily<prometheus::Gauge>& family_;
};

// Counts of observations by size. Thread-safe.
class Histogram {
 public:
  // `bounds` are the buckets' upper ends, rising; the last bucket (+Inf) is added.
  Histogram(MetricRegistry& registry, MetricInfo info, std::vector<double> bounds);
  void Observe(double value, LabelValues values = {});
  // Shows the series, with nothing observed yet.
  void Show(LabelValues values = {});

 private:
  internal::TypedFamily<prometheus::Histogram>& family_;
  const std::vector<double> bounds_;
};

// `count` bounds from `first`, each `factor` times the one before.
std::vector<double> ExponentialBounds(double first, double factor, int count);

}  // namespace anneal
