#include "common/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
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
    std::string key = KeyOf(values);
    absl::MutexLock lock(&mu_);
    Series& series = series_[std::move(key)];
    if (series.metric == nullptr) {
      auto value = values.begin();
      for (const std::string& name : info().labels)
        series.labels.emplace(name, std::string(*value++));
      series.metric = &family_.Add(series.labels, args...);
    }
    fn(*series.metric);
  }

  // The series with these values, if it is there.
  void Remove(LabelValues values) {
    absl::MutexLock lock(&mu_);
    const auto found = series_.find(KeyOf(values));
    if (found == series_.end()) return;
    family_.Remove(found->second.metric);
    series_.erase(found);
  }

  void RemoveSeries(const SeriesLabels& labels) override {
    RemoveWhere([&](const prometheus::Labels& has) {
      return std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
        const auto found = has.find(std::string(label.first));
        return found != has.end() && found->second == label.second;
      });
    });
  }

  void RemoveSeries(absl::string_view label, const std::set<std::string>& values) override {
    const std::string name(label);
    const auto& names = info().labels;
    if (std::find(names.begin(), names.end(), name) == names.end()) return;
    RemoveWhere([&](const prometheus::Labels& has) { return values.count(has.at(name)) > 0; });
  }

 private:
  struct Series {
    prometheus::Labels labels;
    Metric* metric = nullptr;
  };

  template <typename Predicate>
  void RemoveWhere(const Predicate& goes) {
    absl::MutexLock lock(&mu_);
    for (auto it = series_.begin(); it != series_.end();) {
      if (goes(it->second.labels)) {
        family_.Remove(it->second.metric);
        it = series_.erase(it);
      } else {
        ++it;
      }
    }
  }

  // Values may have any characters, so each says how long it is.
  static std::string KeyOf(LabelValues values) {
    std::string key;
    for (const absl::string_view value : values) absl::StrAppend(&key, value.size(), ":", value);
    return key;
  }

  prometheus::Family<Metric>& family_;
  absl::Mutex mu_;
  std::unordered_map<std::string, Series> series_ ABSL_GUARDED_BY(mu_);  // by KeyOf
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

void MetricRegistry::RemoveSeries(absl::string_view label, const std::set<std::string>& values) {
  absl::MutexLock lock(&mu_);
  for (const auto& family : families_) family->RemoveSeries(label, values);
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
