#pragma once
// Rows that encode equally: repeats within the training rows, and leaks from them into the
// validation rows.

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/prepare/row_encoder.h"

namespace anneal::prepare {

struct RowPlace {
  int32_t file = 0;  // index into the task's files
  int64_t line = 0;  // from 1
};

// Keeps 64 bits of a hash for each row, not the row: a false match is rarer than one in ten million
// data sets of a million rows, and costs a wrong warning. Guarded by its caller.
class TwinFinder {
 public:
  // The earlier training row that is equal, if there is one.
  std::optional<RowPlace> AddTraining(const EncodedRow& row, RowPlace place);
  void AddValidation(const EncodedRow& row, RowPlace place);
  // After all rows were added: each validation row that is a training row too, with the first such.
  std::vector<std::pair<RowPlace, RowPlace>> FindLeaks() const;

 private:
  absl::flat_hash_map<uint64_t, RowPlace> training_;
  std::vector<std::pair<uint64_t, RowPlace>> validation_;
};

}  // namespace anneal::prepare
