#include "worker/trainer/model/testing/tiny_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "common/format/safetensors.h"

namespace anneal::trainer::testing {
namespace {

DType StoredType(at::ScalarType type) {
  return type == at::kFloat ? DType::kF32 : type == at::kHalf ? DType::kF16 : DType::kBf16;
}

}  // namespace

TinyModel WriteTinyModel(const std::string& dir, bool tied, at::ScalarType dtype) {
  std::filesystem::create_directories(dir);
  const Json json = {{"architectures", {"LlamaForCausalLM"}},
                     {"model_type", "llama"},
                     {"hidden_size", 32},
                     {"intermediate_size", 56},
                     {"num_hidden_layers", 2},
                     {"num_attention_heads", 4},
                     {"num_key_value_heads", 2},
                     {"vocab_size", 97},
                     {"max_position_embeddings", 64},
                     {"rms_norm_eps", 1e-5},
                     {"rope_theta", 100.0},
                     {"tie_word_embeddings", tied},
                     {"eos_token_id", 2},
                     {"torch_dtype", "float32"}};
  std::ofstream(dir + "/config.json") << DumpJson(json);
  std::ofstream(dir + "/tokenizer.json")
      << R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[
    {"id":3,"content":"<|end|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
    "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"c":2,"<|end|>":3},"unk_token":"a"}})";
  std::ofstream(dir + "/tokenizer_config.json") << R"({"eos_token":"<|end|>"})";
  TinyModel model;
  absl::StatusOr<ModelConfig> config = ParseModelConfig(json);
  ANNEAL_CHECK_OK(config.status());
  model.config = *std::move(config);

  at::manual_seed(11);
  std::vector<TensorSpec> specs;
  for (const ExpectedTensor& tensor : AllTensors(model.config)) {
    const bool norm = tensor.shape.size() == 1;
    const at::Tensor value = norm ? at::ones(tensor.shape) + 0.1 * at::randn(tensor.shape)
                                  : 0.2 * at::randn(tensor.shape);
    model.weights[tensor.name] = value.to(dtype).to(at::kFloat);
    specs.push_back({tensor.name, StoredType(dtype), tensor.shape});
  }
  auto writer = SafetensorsWriter::Create(dir + "/model.safetensors", specs, {{"format", "pt"}});
  ANNEAL_CHECK_OK(writer.status());
  for (const TensorSpec& spec : specs) {
    const at::Tensor stored = model.weights.at(spec.name).to(dtype);
    ANNEAL_CHECK_OK((*writer)->Append(
        spec.name, absl::MakeConstSpan(static_cast<const std::byte*>(stored.const_data_ptr()),
                                       stored.nbytes())));
  }
  ANNEAL_CHECK_OK((*writer)->Finish());
  return model;
}

MicroBatch TinyBatch(const ModelConfig& config) {
  MicroBatch batch;
  batch.step = 1;
  batch.source_rows = {5, 3};
  batch.row_starts = {0, 9, 16};
  for (int64_t t = 0; t < 16; ++t) {
    batch.token_ids.push_back((t * t * 7 + 3 * t + 1) % config.vocab_size);
    batch.positions.push_back(t < 9 ? t : t - 9);
  }
  batch.supervised_positions = {0, 4, 7, 9, 13, 14};
  batch.supervised_rows = {0, 0, 0, 1, 1, 1};
  for (int64_t t : batch.supervised_positions) batch.targets.push_back(batch.token_ids[t + 1]);
  return batch;
}

}  // namespace anneal::trainer::testing
