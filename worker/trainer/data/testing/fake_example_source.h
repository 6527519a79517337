#pragma once
// Rows in plain vectors, and a record of which of them were read.

#include <mutex>
#include <set>
#include <vector>

#include "worker/trainer/data/example_source.h"

namespace anneal::trainer::testing {

class FakeExampleSource : public ExampleSource {
 public:
  struct Row {
    std::vector<int32_t> token_ids;
    std::vector<uint8_t> loss_weight;
  };
  explicit FakeExampleSource(std::vector<Row> rows) : rows_(std::move(rows)) {}

  // Row i has lengths[i] tokens i * 100, i * 100 + 1, ...; the last `supervised` of them count for the loss.
  static FakeExampleSource WithLengths(const std::vector<int>& lengths, int supervised = 1) {
    std::vector<Row> rows(lengths.size());
    for (size_t i = 0; i < lengths.size(); ++i) {
      for (int p = 0; p < lengths[i]; ++p) {
        rows[i].token_ids.push_back(static_cast<int32_t>(i * 100 + p));
        rows[i].loss_weight.push_back(p >= lengths[i] - supervised);
      }
    }
    return FakeExampleSource(std::move(rows));
  }

  FakeExampleSource(FakeExampleSource&& other) : rows_(std::move(other.rows_)) {}

  int64_t rows() const override { return static_cast<int64_t>(rows_.size()); }
  Example Get(int64_t row) const override {
    std::lock_guard<std::mutex> lock(mu_);
    read_.insert(row);
    return {rows_.at(row).token_ids, rows_.at(row).loss_weight};
  }
  std::set<int64_t> read() const {
    std::lock_guard<std::mutex> lock(mu_);
    return read_;
  }

 private:
  std::vector<Row> rows_;
  mutable std::mutex mu_;
  mutable std::set<int64_t> read_;
};

}  // namespace anneal::trainer::testing
