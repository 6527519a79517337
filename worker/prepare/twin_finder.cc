#include "worker/prepare/twin_finder.h"

#include "absl/hash/hash.h"

namespace anneal::prepare {
namespace {

uint64_t KeyOf(const EncodedRow& row) { return absl::HashOf(row.token_ids, row.loss_weight); }

}  // namespace

std::optional<RowPlace> TwinFinder::AddTraining(const EncodedRow& row, RowPlace place) {
  const auto [it, added] = training_.try_emplace(KeyOf(row), place);
  if (added) return std::nullopt;
  return it->second;
}

void TwinFinder::AddValidation(const EncodedRow& row, RowPlace place) {
  validation_.emplace_back(KeyOf(row), place);
}

std::vector<std::pair<RowPlace, RowPlace>> TwinFinder::FindLeaks() const {
  std::vector<std::pair<RowPlace, RowPlace>> leaks;
  for (const auto& [key, place] : validation_) {
    if (const auto it = training_.find(key); it != training_.end()) {
      leaks.emplace_back(place, it->second);
    }
  }
  return leaks;
}

}  // namespace anneal::prepare
