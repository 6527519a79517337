// anneal-trainer logits: what a model answers to given token ids, for checks against other
// software.

#include <c10/core/InferenceMode.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "worker/trainer/command_line.h"
#include "worker/trainer/commands.h"
#include "worker/trainer/export/adapter.h"
#include "worker/trainer/export/tensor_file.h"
#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer {
namespace {

struct Options {
  std::string model_dir, adapter_dir, tokens_file, out_file;
};

// {"rows": [[1, 2, 3], [4, 5]]}: packed into one micro-batch.
absl::StatusOr<MicroBatch> ReadRows(const std::string& path, int64_t vocab_size) {
  ANNEAL_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  const Json rows = json.is_object() ? json.value("rows", Json()) : Json();
  if (!rows.is_array() || rows.empty())
    return absl::InvalidArgumentError(absl::StrCat(path, ": rows is not a list of rows"));
  MicroBatch batch;
  batch.row_starts = {0};
  for (const Json& row : rows) {
    const std::string name = absl::StrCat(path, ": rows[", batch.source_rows.size(), "]");
    if (!row.is_array() || row.empty())
      return absl::InvalidArgumentError(absl::StrCat(name, " is not a list of token ids"));
    for (const Json& id : row) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, " holds ", DumpJson(id), ", not a token id below ", vocab_size));
      }
      batch.positions.push_back(static_cast<int64_t>(batch.token_ids.size()) -
                                batch.row_starts.back());
      batch.token_ids.push_back(id.get<int64_t>());
    }
    batch.source_rows.push_back(static_cast<int64_t>(batch.source_rows.size()));
    batch.row_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  return batch;
}

absl::Status Run(const Options& options) {
  const c10::InferenceMode no_autograd;
  const std::unique_ptr<Kernels> kernels = MakeCpuKernels();
  ANNEAL_ASSIGN_OR_RETURN(const auto decoder,
                          LoadWithAdapter(options.model_dir, options.adapter_dir, *kernels));
  ANNEAL_ASSIGN_OR_RETURN(const MicroBatch batch,
                          ReadRows(options.tokens_file, decoder->config().vocab_size));
  return WriteTensorFile(options.out_file, {{"logits", decoder->Logits(batch)}});
}

}  // namespace

int LogitsCommand(int argc, char** argv) {
  Options options;
  CLI::App app("Compute a model's logits for rows of token ids.", "anneal-trainer logits");
  app.add_option("--model", options.model_dir, "Hugging Face model directory")->required();
  app.add_option("--adapter", options.adapter_dir, "LoRA adapter in PEFT form");
  app.add_option("--tokens", options.tokens_file, "JSON: {\"rows\": [[1, 2], [3]]}")->required();
  app.add_option("--out", options.out_file,
                 "gets tensor \"logits\" of all tokens, rows one after another (safetensors)")
      ->required();
  return ParseAndRun(app, argc, argv, [&] { return Run(options); });
}

}  // namespace anneal::trainer
