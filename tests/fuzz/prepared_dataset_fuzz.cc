// Any file: refused, or each of its rows is refused or keeps the format's promises.

#include "common/format/prepared_dataset.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const anneal::fuzz::MemoryFile file(data, size);
  const auto dataset = anneal::PreparedDataset::Open(file.path());
  if (!dataset.ok()) return 0;
  for (int64_t i = 0; i < (*dataset)->size(); ++i) {
    const auto example = (*dataset)->Example(i);
    if (!example.ok()) continue;
    ANNEAL_CHECK(static_cast<int64_t>(example->token_ids.size()) == (*dataset)->length(i));
    ANNEAL_CHECK(example->loss_weight.size() == example->token_ids.size());
    int64_t supervised = 0;
    for (size_t t = 0; t < example->token_ids.size(); ++t) {
      ANNEAL_CHECK(example->token_ids[t] >= 0 &&
                   example->token_ids[t] < (*dataset)->info().vocab_size);
      supervised += example->loss_weight[t];
    }
    ANNEAL_CHECK(supervised == (*dataset)->supervised_tokens(i));
  }
  return 0;
}
