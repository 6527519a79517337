// anneal-trainer generate: a model's answer to one prompt, the likeliest token at a time.

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/text/text_model.h"
#include "worker/trainer/command_line.h"
#include "worker/trainer/commands.h"
#include "worker/trainer/export/adapter.h"
#include "worker/trainer/export/end_of_turn.h"
#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer {
namespace {

struct Options {
  std::string model_dir, adapter_dir, prompt, system;
  int max_tokens = 256;
  int threads = 0;
  bool raw = false;
};

absl::StatusOr<std::vector<int64_t>> EncodePrompt(const TextModel& text, const Options& options) {
  std::string prompt = options.prompt;
  const bool as_chat = text.chat_template != nullptr && !options.raw;
  if (as_chat) {
    Json messages = Json::array();
    if (!options.system.empty())
      messages.push_back({{"role", "system"}, {"content", options.system}});
    messages.push_back({{"role", "user"}, {"content", options.prompt}});
    ANNEAL_ASSIGN_OR_RETURN(
        const RenderedChat chat,
        text.chat_template->Render(messages, nullptr, /*add_generation_prompt=*/true));
    prompt = chat.text;
  }
  // A template writes the special tokens itself.
  ANNEAL_ASSIGN_OR_RETURN(const Encoding encoding,
                          text.tokenizer->Encode(prompt, /*add_special_tokens=*/!as_chat));
  if (encoding.ids.empty()) return absl::InvalidArgumentError("the prompt is empty");
  return std::vector<int64_t>(encoding.ids.begin(), encoding.ids.end());
}

// Computes the whole row again for each token: simple, and fast enough for the short answers one
// looks at.
std::vector<int32_t> Answer(Decoder& decoder, const std::vector<int64_t>& prompt,
                            const std::vector<int64_t>& stop_tokens, int max_tokens) {
  MicroBatch batch;
  batch.source_rows = {0};
  batch.token_ids = prompt;
  std::vector<int32_t> answer;
  while (static_cast<int>(answer.size()) < max_tokens) {
    const int64_t tokens = static_cast<int64_t>(batch.token_ids.size());
    while (static_cast<int64_t>(batch.positions.size()) < tokens)
      batch.positions.push_back(batch.positions.size());
    batch.row_starts = {0, static_cast<int32_t>(tokens)};
    const int64_t next = decoder.Logits(batch)[tokens - 1].argmax().item<int64_t>();
    if (std::find(stop_tokens.begin(), stop_tokens.end(), next) != stop_tokens.end()) break;
    answer.push_back(static_cast<int32_t>(next));
    batch.token_ids.push_back(next);
  }
  return answer;
}

absl::Status Run(const Options& options) {
  const c10::InferenceMode no_autograd;
  if (options.threads > 0) at::set_num_threads(options.threads);
  const std::unique_ptr<Kernels> kernels = MakeCpuKernels();
  ANNEAL_ASSIGN_OR_RETURN(const TextModel text,
                          LoadTextModel(options.model_dir, Clock::Real().TimeNow()));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<int64_t> prompt, EncodePrompt(text, options));
  ANNEAL_ASSIGN_OR_RETURN(const auto decoder,
                          LoadWithAdapter(options.model_dir, options.adapter_dir, *kernels));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<int64_t> stop_tokens,
                          EndOfTurnTokens(options.model_dir, decoder->config()));
  const int64_t vocabulary = decoder->config().vocab_size;
  if (std::any_of(prompt.begin(), prompt.end(), [&](int64_t id) { return id >= vocabulary; })) {
    return absl::InvalidArgumentError("the tokenizer has tokens that the model has not");
  }
  const std::vector<int32_t> answer = Answer(*decoder, prompt, stop_tokens, options.max_tokens);
  ANNEAL_ASSIGN_OR_RETURN(const std::string out,
                          text.tokenizer->Decode(answer, /*skip_special_tokens=*/true));
  std::printf("%s\n", out.c_str());
  return absl::OkStatus();
}

}  // namespace

int GenerateCommand(int argc, char** argv) {
  Options options;
  CLI::App app("Answer a prompt, the likeliest token at a time.", "anneal-trainer generate");
  app.add_option("--model", options.model_dir, "Hugging Face model directory")->required();
  app.add_option("--adapter", options.adapter_dir, "LoRA adapter in PEFT form");
  app.add_option("--prompt", options.prompt, "what the user says")->required();
  app.add_option("--system", options.system, "what the system message says; none if absent");
  app.add_flag("--raw", options.raw, "continue the prompt as it is, without the chat template");
  app.add_option("--max-tokens", options.max_tokens, "stop after so many")
      ->check(CLI::Range(1, 100000));
  app.add_option("--threads", options.threads, "0: as many as there are cores")
      ->check(CLI::Range(0, 1024));
  return ParseAndRun(app, argc, argv, [&] { return Run(options); });
}

}  // namespace anneal::trainer
