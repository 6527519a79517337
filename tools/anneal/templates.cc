#include "tools/anneal/templates.h"

namespace anneal::cli {

const char kSampleJob[] = R"(# A fine-tuning job. Submit it with `anneal submit job.yaml --follow`.
# Lines behind a # show defaults. `anneal submit job.yaml --dry-run` shows every value and where it comes from.
display_name: my-first-job

# A Hugging Face folder on this machine, or a model of the service (`anneal models`).
model: path/to/model

# Train small matrices beside frozen weights (lora), or every weight (full: {}).
method:
  lora:
    rank: 16
    # alpha: 32
    # dropout: 0
    # target_modules: [all-linear]

data:
  # JSON lines, beside this file: {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}
  train: [train.jsonl]
  # Rows to measure on, never trained on: files, or a part of the training rows. Below 50 rows none are held out by default.
  # validation: { fraction: 0.05 }
  # max_length: 2048          # tokens a row
  # over_length: REJECT       # longer rows are errors; or TRUNCATE, DROP
  # train_on: ASSISTANT       # what counts for the loss; or LAST_TURN, ALL

training:
  epochs: 3
  # batch_size: 16            # rows a step, over all slots together
  # learning_rate: 2e-4       # 1e-5 for full
  # schedule: COSINE          # or LINEAR, CONSTANT
  # warmup_ratio: 0.03
  # max_grad_norm: 1.0
  # seed: 0

resources:
  slots: 1                    # GPUs, or shares of CPU cores
  # accelerator: AUTO         # GPU if there is any; or CPU, GPU
  # min_slots: 1              # elastic: go on with fewer when a worker leaves, up to max_slots when there are more
  # max_slots: 4

# checkpoint: { every: 10m, keep_last: 2 }
# limits: { max_hours: 0, max_slot_seconds: 0 }   # reaching one pauses the job; 0 = none
# retry: { max_infrastructure_failures: 100, max_user_failures: 0, max_unknown_failures: 3 }
# priority: NORMAL            # or LOW, HIGH
# evaluation: { every_steps: 0 }   # 0 = before and after training only
)";

const char kSampleData[] =
    R"({"messages": [{"role": "user", "content": "Is this review positive or negative? I would watch it again tomorrow."}, {"role": "assistant", "content": "positive"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? Two hours I will not get back."}, {"role": "assistant", "content": "negative"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? The cast is warm and the jokes land."}, {"role": "assistant", "content": "positive"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? A plot with more holes than story."}, {"role": "assistant", "content": "negative"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? Quiet, clever, and over too soon."}, {"role": "assistant", "content": "positive"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? Loud from start to end and never funny."}, {"role": "assistant", "content": "negative"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? Every scene earns its place."}, {"role": "assistant", "content": "positive"}]}
{"messages": [{"role": "user", "content": "Is this review positive or negative? Even the trailer was too long."}, {"role": "assistant", "content": "negative"}]}
)";

}  // namespace anneal::cli
