#pragma once
// Prepared data sets with a few made-up rows, as files.

#include <cstdint>
#include <string>
#include <vector>

namespace anneal::trainer::testing {

struct SmallRow {
  std::vector<int32_t> token_ids;
  std::vector<uint8_t> loss_weight;
};

// `count` rows of 2 to 20 tokens below `vocab_size`, of which the last one to three count for the
// loss. The same for a seed.
std::vector<SmallRow> MakeSmallRows(int count, int64_t vocab_size, uint64_t seed);
void WriteSmallDataset(const std::string& path, const std::vector<SmallRow>& rows,
                       int64_t vocab_size);

}  // namespace anneal::trainer::testing
