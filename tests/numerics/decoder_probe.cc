// What a decoder computes for given rows, in full: logits, losses and every gradient, in the
// compute type that is asked for. Tests compare it with transformers and peft.
//
// usage: decoder_probe REQUEST.json
//   {"model": DIR, "adapter": DIR or "", "type": "float32" | "float64" | "bfloat16",
//    "rows": [[token ids]], "supervised": [[0 or 1 per token]], "source_rows": [int],
//    "dropout": {"rate", "seed", "step"} (optional), "out": FILE}
// FILE gets, in fp64: "logits" [T, V], "losses" [S], and "gradient/<tensor>" of the mean loss.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/safetensors.h"
#include "worker/trainer/export/adapter.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {
namespace {

using Values = std::vector<std::vector<at::Tensor>>;

at::ScalarType TypeNamed(const std::string& name) {
  if (name == "float64") return at::kDouble;
  return name == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

MicroBatch ReadBatch(const Json& request) {
  MicroBatch batch;
  batch.row_starts = {0};
  for (size_t row = 0; row < request["rows"].size(); ++row) {
    const auto ids = request["rows"][row].get<std::vector<int64_t>>();
    const auto supervised = request["supervised"][row].get<std::vector<int>>();
    for (size_t i = 0; i < ids.size(); ++i) {
      // A token is learnt at the position before it.
      if (i > 0 && supervised[i] != 0) {
        batch.supervised_positions.push_back(static_cast<int64_t>(batch.token_ids.size()) - 1);
        batch.supervised_rows.push_back(static_cast<int32_t>(row));
        batch.targets.push_back(ids[i]);
      }
      batch.positions.push_back(static_cast<int64_t>(i));
      batch.token_ids.push_back(ids[i]);
    }
    batch.source_rows.push_back(request["source_rows"][row].get<int64_t>());
    batch.row_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  return batch;
}

absl::StatusOr<Values> BindValues(Decoder& decoder, const std::string& adapter,
                                  at::ScalarType type) {
  Values values;
  if (!adapter.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(values, ReadAdapterValues(adapter, decoder));
  }
  for (size_t u = 0; u < decoder.units().size(); ++u) {
    if (adapter.empty()) {
      std::vector<at::Tensor>& unit = values.emplace_back();
      for (const ParameterSpec& spec : decoder.units()[u].parameters)
        unit.push_back(at::empty(spec.shape, type));
      ANNEAL_RETURN_IF_ERROR(decoder.InitialValues(static_cast<int>(u), /*seed=*/0, unit));
    }
    for (at::Tensor& value : values[u]) value = value.to(type);
    decoder.Bind(static_cast<int>(u), values[u]);
  }
  return values;
}

// One training step's forward and backward, as the engine's TrainCell does it.
at::Tensor ForwardBackward(Decoder& decoder, const MicroBatch& batch, Values& gradients) {
  const int layers = static_cast<int>(decoder.config().layers);
  const int lowest = decoder.lowest_trainable_unit();
  const Cell cell = decoder.MakeCell(batch);
  std::vector<BlockSaved> saved(layers);
  at::Tensor x_TD = decoder.EmbedForward(cell);
  for (int layer = 0; layer < layers; ++layer)
    x_TD = decoder.BlockForward(layer, x_TD, cell, &saved[layer]);
  const std::span<at::Tensor> tied =
      decoder.config().tie_word_embeddings ? std::span(gradients[0]) : std::span<at::Tensor>();
  const double scale = 1.0 / static_cast<double>(batch.targets.size());
  const HeadResult head = decoder.Head(x_TD, cell, scale, gradients.back(), tied, {});
  at::Tensor dx_TD = head.dx_TD;
  for (int layer = layers - 1; layer >= 0 && layer + 1 >= lowest; --layer) {
    dx_TD = decoder.BlockBackward(layer, dx_TD, cell, saved[layer], gradients[layer + 1],
                                  /*need_dx=*/layer + 1 > lowest);
  }
  if (lowest == 0) decoder.EmbedBackward(dx_TD, cell, gradients[0]);
  return head.losses_S;
}

absl::Status Write(const std::string& path, const std::map<std::string, at::Tensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors)
    specs.push_back({name, DType::kF64, tensor.sizes().vec()});
  ANNEAL_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, specs, {}));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor wide = tensor.to(at::kDouble).contiguous();
    ANNEAL_RETURN_IF_ERROR(writer->Append(
        name,
        absl::MakeConstSpan(wide.const_data_ptr<double>(), static_cast<size_t>(wide.numel()))));
  }
  return writer->Finish();
}

absl::Status Run(const std::string& request_file) {
  const c10::InferenceMode no_autograd;
  ANNEAL_ASSIGN_OR_RETURN(const Json request, ReadJsonFile(request_file));
  const std::string adapter = request["adapter"];
  const at::ScalarType type = TypeNamed(request["type"]);
  DecoderOptions options = {.compute_type = type};
  if (!adapter.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(options.lora, ReadAdapterConfig(adapter));
  }
  MicroBatch batch = ReadBatch(request);
  std::optional<std::pair<uint64_t, int64_t>> dropout_key;
  if (request.contains("dropout")) {
    options.lora->dropout = request["dropout"]["rate"];
    batch.step = request["dropout"]["step"];
    dropout_key.emplace(request["dropout"]["seed"].get<uint64_t>(), batch.step);
  }
  const std::unique_ptr<Kernels> kernels = MakeCpuKernels();
  ANNEAL_ASSIGN_OR_RETURN(const auto decoder, Decoder::Load(request["model"], options, *kernels));
  // Masters are fp32 where the arithmetic is bf16, as in training.
  const at::ScalarType master = type == at::kBFloat16 ? at::kFloat : type;
  ANNEAL_ASSIGN_OR_RETURN(const Values values, BindValues(*decoder, adapter, master));
  Values gradients;
  for (const ParameterUnit& unit : decoder->units()) {
    std::vector<at::Tensor>& out = gradients.emplace_back();
    for (const ParameterSpec& spec : unit.parameters) out.push_back(at::empty(spec.shape, master));
  }

  std::map<std::string, at::Tensor> results = {{"logits", decoder->Logits(batch)}};
  decoder->SetDropoutKey(dropout_key);
  results["losses"] = ForwardBackward(*decoder, batch, gradients);
  for (size_t u = 0; u < gradients.size(); ++u) {
    for (size_t i = 0; i < gradients[u].size(); ++i)
      results["gradient/" + decoder->units()[u].parameters[i].name] = gradients[u][i];
  }
  return Write(request["out"], results);
}

}  // namespace
}  // namespace anneal::trainer

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const absl::Status status = anneal::trainer::Run(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
