#include "worker/trainer/engine/testing/small_dataset.h"

#include <algorithm>

#include "common/base/random.h"
#include "common/base/status.h"
#include "common/format/prepared_dataset.h"

namespace anneal::trainer::testing {

std::vector<SmallRow> MakeSmallRows(int count, int64_t vocab_size, uint64_t seed) {
  SeededRandom random(seed);
  std::vector<SmallRow> rows(count);
  for (SmallRow& row : rows) {
    const int length = static_cast<int>(2 + random.Next() % 19);
    const int supervised = std::min(length - 1, static_cast<int>(1 + random.Next() % 3));
    for (int p = 0; p < length; ++p) {
      row.token_ids.push_back(static_cast<int32_t>(random.Next() % vocab_size));
      row.loss_weight.push_back(p >= length - supervised);
    }
  }
  return rows;
}

void WriteSmallDataset(const std::string& path, const std::vector<SmallRow>& rows,
                       int64_t vocab_size) {
  auto writer = PreparedDatasetWriter::Create(
      path, {.content_key = std::string(64, '0'), .vocab_size = vocab_size, .max_length = 1024});
  ANNEAL_CHECK_OK(writer.status());
  for (size_t i = 0; i < rows.size(); ++i) {
    ANNEAL_CHECK_OK((*writer)->Add({.token_ids = rows[i].token_ids,
                                    .loss_weight = rows[i].loss_weight,
                                    .source_row = static_cast<int64_t>(i)}));
  }
  ANNEAL_CHECK_OK((*writer)->Finish().status());
}

}  // namespace anneal::trainer::testing
