#pragma once
// LoRA adapters in PEFT's form: adapter_config.json and adapter_model.safetensors, as peft 0.21
// saves them and vLLM serves them.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/protocol/messages.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

// Values by unit, in the order of decoder.units() and their parameters.
using UnitValues = std::vector<std::vector<at::Tensor>>;

// Makes `out_dir`. `base_id` becomes base_model_name_or_path. `values` are of `decoder`, which was
// loaded with `lora`. An embedding that is trained whole and tied is written under both its names,
// as peft's ensure_weight_tying does. Reads what it wrote back and compares every byte.
absl::Status WriteAdapter(const protocol::LoraOptions& lora, const std::string& base_id,
                          const Decoder& decoder, const UnitValues& values,
                          const std::string& out_dir);

// What of adapter_config.json decides the arithmetic. INVALID_ARGUMENT if the adapter is of a kind
// that we do not compute (DoRA, biases, patterns that are no plain names).
absl::StatusOr<protocol::LoraOptions> ReadAdapterConfig(const std::string& adapter_dir);
// The values of an adapter for a decoder loaded with its options: every parameter, of the right
// shape, and nothing besides.
absl::StatusOr<UnitValues> ReadAdapterValues(const std::string& adapter_dir,
                                             const Decoder& decoder);

// A decoder to read answers from, in fp32 on the CPU: the model with the adapter's values bound, or
// as it is if `adapter_dir` is empty. `kernels` must outlive it.
absl::StatusOr<std::unique_ptr<Decoder>> LoadWithAdapter(const std::string& model_dir,
                                                         const std::string& adapter_dir,
                                                         Kernels& kernels);

}  // namespace anneal::trainer
