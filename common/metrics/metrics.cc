#include "common/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "common/base/status.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/text_serializer.h"

namespace anneal {
namespace internal {

MetricFamily::MetricFamily(MetricInfo info, absl::string_view type)
    : info_(std::move(info)), type_(type) {
  // The naming rules that `promtool check metrics` holds every scrape to.
  ANNEAL_CHECK(absl::StartsWith(info_.name, "anneal_"));
  ANNEAL_CHECK(!info_.help.empty());
  ANNEAL_CHECK((type_ == "counter") == absl::EndsWith(info_.name, "_total"));
}

// Finds, makes and removes the series of one metric under one lock, so that no caller holds a
// reference to a removed one.
template <typename Metric>
class TypedFamily : public MetricFamily {
 public:
  TypedFamily(MetricInfo info, absl::string_view type, prometheus::Family<Metric>& family)
      : MetricFamily(std::move(info), type), family_(family) {}

  // Runs `fn(metric)` on the series with these values, made with `args` if it is new.
  template <typename Fn, typename... Args>
  void With(LabelValues values, Fn&& fn, const Args&... args) {
    ANNEAL_CHECK(values.size() == info().labels.size());
    prometheus::Labels labels;
    auto value = values.begin();
    for (const std::string& name : info().labels) labels.emplace(name, std::string(*value++));
    absl::MutexLock lock(&mu_);
    auto [it, added] = series_.try_emplace(std::move(labels), nullptr);
    if (added) it->second = &family_.Add(it->first, args...);
    fn(*it->second);
  }

  // The series with these values, if it is there.
  void Remove(LabelValues values) {
    SeriesLabels labels;
    auto value = values.begin();
    for (const std::string& name : info().labels) labels.emplace_back(name, *value++);
    RemoveSeries(labels);
  }

  void RemoveSeries(const SeriesLabels& labels) override {
    absl::MutexLock lock(&mu_);
    for (auto it = series_.begin(); it != series_.end();) {
      const bool has_all = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
        const auto found = it->first.find(std::string(label.first));
        return found != it->first.end() && found->second == label.second;
      });
      if (has_all) {
        family_.Remove(it->second);
        it = series_.erase(it);
      } else {
        ++it;
      }
    }
  }

 private:
  prometheus::Family<Metric>& family_;
  absl::Mutex mu_;
  std::map<prometheus::Labels, Metric*> series_ ABSL_GUARDED_BY(mu_);
};

}  // namespace internal

MetricRegistry::MetricRegistry() : registry_(prometheus::Registry::InsertBehavior::Throw) {}
MetricRegistry::~MetricRegistry() = default;

template <typename Metric, typename Builder>
internal::TypedFamily<Metric>& MetricRegistry::Register(MetricInfo info, absl::string_view type,
                                                        Builder builder) {
  prometheus::Family<Metric>& series = builder.Name(info.name).Help(info.help).Register(registry_);
  auto family = std::make_unique<internal::TypedFamily<Metric>>(std::move(info), type, series);
  internal::TypedFamily<Metric>& registered = *family;
  absl::MutexLock lock(&mu_);
  families_.push_back(std::move(family));
  return registered;
}

void MetricRegistry::RemoveSeries(const SeriesLabels& labels) {
  absl::MutexLock lock(&mu_);
  for (const auto& family : families_) family->RemoveSeries(labels);
}

std::string MetricRegistry::Scrape() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  // A metric without series would be a HELP line without samples.
  families.erase(std::remove_if(families.begin(), families.end(),
                                [](const auto& f) { return f.metric.empty(); }),
                 families.end());
  return prometheus::TextSerializer().Serialize(families);
}

std::vector<MetricDescription> MetricRegistry::Describe() const {
  std::vector<MetricDescription> all;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& family : families_) all.push_back({family->info(), family->type()});
  }
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.info.name < b.info.name; });
  return all;
}

Counter::Counter(MetricRegistry& registry, MetricInfo info)
    : family_(registry.Register<prometheus::Counter>(std::move(info), "counter",
                                                     prometheus::BuildCounter())) {}

void Counter::Add(double amount, LabelValues values) {
  if (!(amount >= 0)) return;
  family_.With(values, [&](prometheus::Counter& counter) { counter.Increment(amount); });
}

Gauge::Gauge(MetricRegistry& registry, MetricInfo info)
    : family_(registry.Register<prometheus::Gauge>(std::move(info), "gauge",
                                                   prometheus::BuildGauge())) {}

void Gauge::Set(double value, LabelValues values) {
  family_.With(values, [&](prometheus::Gauge& gauge) { gauge.Set(value); });
}

void Gauge::Remove(LabelValues values) { family_.Remove(values); }

void Gauge::Add(double amount, LabelValues values) {
  family_.With(values, [&](prometheus::Gauge& gauge) { gauge.Increment(amount); });
}

Histogram::Histogram(MetricRegistry& registry, MetricInfo info, std::vector<double> bounds)
    : family_(registry.Register<prometheus::Histogram>(std::move(info), "histogram",
                                                       prometheus::BuildHistogram())),
      bounds_(std::move(bounds)) {}

void Histogram::Observe(double value, LabelValues values) {
  family_.With(
      values, [&](prometheus::Histogram& histogram) { histogram.Observe(value); }, bounds_);
}

void Histogram::Show(LabelValues values) {
  family_.With(
      values, [](prometheus::Histogram&) {}, bounds_);
}

std::vector<double> ExponentialBounds(double first, double factor, int count) {
  std::vector<double> bounds;
  for (double bound = first; count > 0; --count, bound *= factor) bounds.push_back(bound);
  return bounds;
}

}  // namespace anneal
