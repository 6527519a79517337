// Any config.json: refused, or a model whose tensors have positive shapes.

#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/model_config.h"
#include "common/format/model_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = anneal::ParseJson({reinterpret_cast<const char*>(data), size});
  if (!json.ok()) return 0;
  const auto config = anneal::ParseModelConfig(*json);
  if (!config.ok()) return 0;
  ANNEAL_CHECK(config->layers > 0 && anneal::ParameterCount(*config) > 0);
  for (const anneal::ExpectedTensor& tensor : anneal::BlockTensors(*config, config->layers - 1)) {
    for (const int64_t dimension : tensor.shape) ANNEAL_CHECK(dimension > 0);
  }
  return 0;
}
