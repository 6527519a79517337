#pragma once
// A whole Hugging Face directory of a llama so small that it can be written in a test. Its
// tokenizer is empty: for tests that check, hash, copy and name a model, not for those that run it.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/model_tensors.h"
#include "common/format/safetensors.h"

namespace anneal::testing {

inline void WriteTinyLlama(const std::string& folder) {
  constexpr char kConfig[] =
      R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    "hidden_act": "silu", "torch_dtype": "float32", "eos_token_id": 2})";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << kConfig;
  std::ofstream(folder + "/tokenizer.json") << "{}";
  std::ofstream(folder + "/chat_template.jinja") << "{{ messages }}";
  std::vector<TensorSpec> specs;
  for (const ExpectedTensor& tensor : AllTensors(*ParseModelConfig(*ParseJson(kConfig)))) {
    specs.push_back({tensor.name, DType::kF32, tensor.shape});
  }
  auto writer = SafetensorsWriter::Create(folder + "/model.safetensors", specs, {});
  ANNEAL_CHECK_OK(writer.status());
  for (const TensorSpec& spec : specs) {
    int64_t count = 1;
    for (int64_t extent : spec.shape) count *= extent;
    ANNEAL_CHECK_OK(
        (*writer)->Append<float>(spec.name, std::vector<float>(static_cast<size_t>(count), 0.5f)));
  }
  ANNEAL_CHECK_OK((*writer)->Finish());
}

}  // namespace anneal::testing
