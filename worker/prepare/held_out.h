#pragma once
// Which training rows are held out for validation when the user names no validation files.

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/protocol/messages.h"

namespace anneal::prepare {

// How many of `rows` training rows to hold out for this task; 0 for none.
int64_t HeldOutRows(const protocol::PrepareTask& task, int64_t rows);

// A choice by content: each row is keyed by its text and the seed, and the smallest keys are held
// out. So equal rows land on the same side and cannot leak, and adding rows to a data set moves few
// others. Immutable but for Choose().
class HeldOut {
 public:
  explicit HeldOut(uint64_t seed) : seed_(seed) {}

  uint64_t KeyOf(absl::string_view row_text) const;
  // Holds out the `wanted` smallest of `keys`, and with the largest of them its equals.
  void Choose(std::vector<uint64_t> keys, int64_t wanted);
  bool Holds(absl::string_view row_text) const { return any_ && KeyOf(row_text) <= limit_; }

 private:
  const uint64_t seed_;
  bool any_ = false;
  uint64_t limit_ = 0;
};

}  // namespace anneal::prepare
