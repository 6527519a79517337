#pragma once
// Where rows come from: the mapped prepared data set in the trainer, plain vectors in tests.

#include <cstdint>

#include "absl/types/span.h"

namespace anneal::trainer {

// Views of one row; both spans are equally long, and valid as long as the source.
struct Example {
  absl::Span<const int32_t> token_ids;
  absl::Span<const uint8_t> loss_weight;  // 0 or 1
};

// Thread-safe. Bounds and values were checked when the data set was opened.
class ExampleSource {
 public:
  virtual ~ExampleSource() = default;
  virtual int64_t rows() const = 0;
  // 0 <= row < rows().
  virtual Example Get(int64_t row) const = 0;
};

}  // namespace anneal::trainer
