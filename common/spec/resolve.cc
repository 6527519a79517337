#include "common/spec/resolve.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/spec/field_rules.h"
#include "common/spec/issues.h"
#include "common/spec/lora_rules.h"
#include "common/spec/memory.h"
#include "common/spec/message_json.h"
#include "common/spec/references.h"
#include "common/spec/resolve_operation.h"

namespace anneal::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr char kBadReference[] = "BAD_REFERENCE";
constexpr char kConflict[] = "CONFLICT";
constexpr char kTooMany[] = "TOO_MANY";

constexpr int kMaxDisplayNameCharacters = 128;
constexpr int kMaxLabels = 16;
constexpr int kMaxLabelKeyCharacters = 64;
constexpr int kMaxLabelValueCharacters = 512;
constexpr int kMaxDataFiles = 1000;
constexpr int kMaxSlots = 4096;
constexpr int kDefaultMaxLength = 2048;
constexpr int kMinLogicalShards = 4;

bool IsPowerOfTwo(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

int64_t NextPowerOfTwo(int64_t value) {
  int64_t power = 1;
  while (power < value) power *= 2;
  return power;
}

int64_t PreviousPowerOfTwo(int64_t value) {
  int64_t power = 1;
  while (power * 2 <= value) power *= 2;
  return power;
}

absl::string_view LastComponent(absl::string_view path) {
  absl::ConsumeSuffix(&path, "/");
  return path.substr(path.rfind('/') + 1);
}

// One pass over a spec, section by section. `spec_` starts as the user's and ends complete.
class Resolver {
 public:
  Resolver(const v1::JobSpec& spec, const ResolveInputs& inputs, Origins* origins)
      : inputs_(inputs), origins_(*origins), spec_(spec) {
    ForEachLeaf(spec, [this](const std::string& path, const Message&, const FieldDescriptor&) {
      origins_[path] = kOriginUser;
    });
  }

  Resolution Run() && {
    Model();
    Data();
    DisplayName();
    MethodOptions();
    Resources();
    Training();
    Shards();
    Memory();
    Evaluation();
    Output();
    Labels();
    ResolveOperation(&spec_, &fields_, &issues_);
    out_.mutable_spec()->Swap(&spec_);
    if (inputs_.model != nullptr) out_.set_model_content_hash(inputs_.model->content_hash);
    out_.mutable_template_time()->set_seconds(absl::ToUnixSeconds(inputs_.template_time));
    return Resolution{std::move(out_), std::move(issues_).Release()};
  }

 private:
  void Model() {
    if (spec_.model().empty()) {
      issues_.AddError(kMissing, "model", "no base model is named",
                       "list models with `anneal models`");
      return;
    }
    const std::string problem = ModelReferenceProblem(spec_.model());
    if (!problem.empty()) {
      issues_.AddError(
          kBadReference, "model", problem,
          IsModelId(spec_.model()) ? absl::StrCat("did you mean models/", spec_.model(), "?") : "");
    }
    if (inputs_.model != nullptr && !inputs_.model->has_chat_template) {
      issues_.AddWarning("NO_CHAT_TEMPLATE", "model",
                         "the model has no chat template: rows with messages will be refused",
                         "use prompt/completion or text rows, or an instruction-tuned model");
    }
  }

  void CheckFiles(absl::string_view field,
                  const google::protobuf::RepeatedPtrField<std::string>& files) {
    if (files.size() > kMaxDataFiles) {
      issues_.AddError(kTooMany, field,
                       absl::StrCat(files.size(), " files; at most ", kMaxDataFiles));
      return;
    }
    for (int i = 0; i < files.size(); ++i) {
      const std::string path = absl::StrCat(field, "[", i, "]");
      const std::string problem = FileReferenceProblem(files[i]);
      if (!problem.empty()) {
        issues_.AddError(kBadReference, path, problem, "upload a file with `anneal files upload`");
      } else if (!seen_files_.insert(files[i]).second) {
        issues_.AddWarning("DUPLICATE_FILE", path,
                           absl::StrCat(files[i], " is named more than once"));
      }
    }
  }

  void Data() {
    v1::DataSpec& data = *spec_.mutable_data();
    if (data.train().empty()) {
      issues_.AddError(kMissing, "data.train", "no training file is named",
                       "give at least one file of JSON lines");
    }
    CheckFiles("data.train", data.train());
    CheckFiles("data.validation.files", data.validation().files());
    v1::ValidationSpec& validation = *data.mutable_validation();
    if (!validation.files().empty() && validation.has_fraction()) {
      issues_.AddError(kConflict, "data.validation", "files and fraction exclude each other",
                       "keep one of them");
    } else if (validation.files().empty()) {
      fields_.Default(&validation, "data.validation.", v1::ValidationSpec::kFractionFieldNumber,
                      kDefaultValidationFraction, kOriginDefault);
      const double fraction = validation.fraction();
      fields_.CheckDouble("data.validation.fraction", fraction, fraction >= 0 && fraction <= 0.5,
                          "0 (none) to 0.5");
    }
    const int64_t positions = inputs_.model != nullptr ? inputs_.model->max_positions : 0;
    if (positions > 0 && positions < kDefaultMaxLength) {
      fields_.Default(&data, "data.", v1::DataSpec::kMaxLengthFieldNumber, positions, kOriginModel);
    }
    fields_.Default(&data, "data.", v1::DataSpec::kMaxLengthFieldNumber, int64_t{kDefaultMaxLength},
                    kOriginDefault);
    fields_.CheckRange("data.max_length", data.max_length(), 8, 1048576);
    if (positions > 0 && data.max_length() > positions) {
      issues_.AddError(
          kOutOfRange, "data.max_length",
          absl::StrCat(data.max_length(), " is more than the model's ", positions, " positions"),
          absl::StrCat("use at most ", positions));
    }
    fields_.Default(&data, "data.", v1::DataSpec::kOverLengthFieldNumber,
                    int64_t{v1::DataSpec::OVER_LENGTH_REJECT}, kOriginDefault);
    fields_.Default(&data, "data.", v1::DataSpec::kTrainOnFieldNumber,
                    int64_t{v1::DataSpec::TRAIN_ON_ASSISTANT}, kOriginDefault);
    fields_.CheckEnum(data, "data.", v1::DataSpec::kOverLengthFieldNumber);
    fields_.CheckEnum(data, "data.", v1::DataSpec::kTrainOnFieldNumber);
  }

  void DisplayName() {
    if (spec_.display_name().empty()) {
      std::string name(LastComponent(IsJobModelName(spec_.model()) ? "tuned" : spec_.model()));
      if (!spec_.data().train().empty()) {
        const std::string& file = spec_.data().train(0);
        const auto known = inputs_.file_display_names.find(file);
        absl::string_view stem =
            LastComponent(known != inputs_.file_display_names.end() ? known->second : file);
        absl::ConsumeSuffix(&stem, ".jsonl");
        absl::StrAppend(&name, "-", stem);
      }
      spec_.set_display_name(FirstCharacters(name, kMaxDisplayNameCharacters));
      origins_["display_name"] = kOriginDefault;
    }
    fields_.CheckText("display_name", spec_.display_name(), kMaxDisplayNameCharacters);
  }

  void MethodOptions() {
    v1::Method& method = *spec_.mutable_method();
    if (method.has_full()) return;
    v1::LoraMethod& lora = *method.mutable_lora();
    fields_.Default(&lora, "method.lora.", v1::LoraMethod::kRankFieldNumber, int64_t{16},
                    kOriginDefault);
    fields_.Default(&lora, "method.lora.", v1::LoraMethod::kAlphaFieldNumber, 32.0, kOriginDefault);
    fields_.Default(&lora, "method.lora.", v1::LoraMethod::kDropoutFieldNumber, 0.0,
                    kOriginDefault);
    fields_.Default(&lora, "method.lora.", v1::LoraMethod::kUseRsloraFieldNumber, int64_t{false},
                    kOriginDefault);
    fields_.CheckRange("method.lora.rank", lora.rank(), 1, 1024);
    fields_.CheckDouble("method.lora.alpha", lora.alpha(), lora.alpha() > 0, "above 0");
    fields_.CheckDouble("method.lora.dropout", lora.dropout(),
                        lora.dropout() >= 0 && lora.dropout() < 1, "0 to below 1");
    if (lora.target_modules().empty()) {
      lora.add_target_modules(kAllLinear);
      origins_["method.lora.target_modules"] = kOriginDefault;
    }
    static const std::vector<std::string> kUnknown;
    CheckLoraModules(lora, inputs_.model != nullptr ? inputs_.model->linear_modules : kUnknown,
                     &fields_, &issues_);
  }

  void Resources() {
    using R = v1::ResourceSpec;
    v1::ResourceSpec& resources = *spec_.mutable_resources();
    const ClusterFacts& cluster = inputs_.cluster;
    fields_.CheckEnum(resources, "resources.", R::kAcceleratorFieldNumber);
    if (resources.accelerator() == R::ACCELERATOR_UNSPECIFIED ||
        resources.accelerator() == R::ACCELERATOR_AUTO) {
      fields_.Replace(&resources, "resources.", R::kAcceleratorFieldNumber,
                      int64_t{cluster.gpu_slots > 0 ? R::ACCELERATOR_GPU : R::ACCELERATOR_CPU},
                      kOriginCluster);
    }
    const bool gpu = on_gpu();
    Slots(resources);
    const int64_t threads = gpu ? cluster.threads_per_gpu_slot : cluster.threads_per_cpu_slot;
    if (threads > 0)
      fields_.Default(&resources, "resources.", R::kThreadsPerSlotFieldNumber, threads,
                      kOriginCluster);
    fields_.Default(&resources, "resources.", R::kThreadsPerSlotFieldNumber, int64_t{1},
                    kOriginDefault);
    fields_.CheckRange("resources.threads_per_slot", resources.threads_per_slot(), 1, 1024);

    const int64_t present = gpu ? cluster.gpu_slots : cluster.cpu_slots;
    const char* kind = gpu ? "GPU" : "CPU";
    if (cluster.gpu_slots + cluster.cpu_slots == 0) {
      issues_.AddWarning(
          "NO_WORKERS", "resources",
          "no worker is registered: accelerator and threads_per_slot are guesses, and the job will "
          "wait",
          "start a worker, or set resources.accelerator and resources.threads_per_slot");
    } else if (resources.min_slots() > present) {
      issues_.AddWarning("NOT_ENOUGH_SLOTS", "resources.slots",
                         absl::StrCat("needs ", resources.min_slots(), " ", kind,
                                      " slots; the fleet has ", present),
                         "the job will wait for more workers");
    }
  }

  void Slots(v1::ResourceSpec& resources) {
    constexpr char kPath[] = "resources.";
    const bool elastic = resources.has_min_slots() || resources.has_max_slots();
    // An elastic job starts with what it can get; `slots` is then what it has now.
    const int64_t slots = resources.has_max_slots()   ? resources.max_slots()
                          : resources.has_min_slots() ? resources.min_slots()
                                                      : 1;
    fields_.Default(&resources, kPath, v1::ResourceSpec::kSlotsFieldNumber, slots, kOriginDefault);
    fields_.CheckRange("resources.slots", resources.slots(), 1, kMaxSlots);
    fields_.Default(&resources, kPath, v1::ResourceSpec::kMinSlotsFieldNumber,
                    int64_t{resources.slots()}, kOriginDefault);
    fields_.Default(&resources, kPath, v1::ResourceSpec::kMaxSlotsFieldNumber,
                    int64_t{resources.slots()}, kOriginDefault);
    if (!elastic) return;
    for (const auto& [name, value] : {std::pair("resources.min_slots", resources.min_slots()),
                                      std::pair("resources.max_slots", resources.max_slots())}) {
      fields_.CheckRange(name, value, 1, kMaxSlots);
      if (value >= 1 && value <= kMaxSlots) CheckPowerOfTwo(name, value);
    }
    if (resources.min_slots() > resources.slots() || resources.slots() > resources.max_slots()) {
      issues_.AddError(
          kConflict, "resources",
          absl::StrCat("min_slots ", resources.min_slots(), ", slots ", resources.slots(),
                       " and max_slots ", resources.max_slots(), " are not in this order"),
          "leave slots out, or put it between the two");
    }
  }

  void CheckPowerOfTwo(absl::string_view field, int64_t value) {
    if (IsPowerOfTwo(value)) return;
    issues_.AddError(
        kOutOfRange, field, absl::StrCat(value, " is not a power of two"),
        absl::StrCat("use ", PreviousPowerOfTwo(value), " or ", NextPowerOfTwo(value)));
  }

  bool on_gpu() const {
    return spec_.resources().accelerator() == v1::ResourceSpec::ACCELERATOR_GPU;
  }

  void Training() {
    using T = v1::TrainingSpec;
    constexpr char kPath[] = "training.";
    v1::TrainingSpec& training = *spec_.mutable_training();
    fields_.Default(&training, kPath, T::kEpochsFieldNumber, int64_t{3}, kOriginDefault);
    fields_.Default(&training, kPath, T::kMaxStepsFieldNumber, int64_t{0}, kOriginDefault);
    fields_.Default(&training, kPath, T::kBatchSizeFieldNumber, int64_t{16}, kOriginDefault);
    fields_.Default(&training, kPath, T::kLearningRateFieldNumber,
                    spec_.method().has_full() ? 1e-5 : 2e-4, kOriginDefault);
    fields_.Default(&training, kPath, T::kScheduleFieldNumber, int64_t{T::SCHEDULE_COSINE},
                    kOriginDefault);
    fields_.Default(&training, kPath, T::kWarmupRatioFieldNumber, 0.03, kOriginDefault);
    fields_.Default(&training, kPath, T::kMaxGradNormFieldNumber, 1.0, kOriginDefault);
    fields_.Default(&training, kPath, T::kWeightDecayFieldNumber, 0.0, kOriginDefault);
    fields_.Default(&training, kPath, T::kAdamBeta1FieldNumber, 0.9, kOriginDefault);
    fields_.Default(&training, kPath, T::kAdamBeta2FieldNumber, 0.999, kOriginDefault);
    fields_.Default(&training, kPath, T::kAdamEpsilonFieldNumber, 1e-8, kOriginDefault);
    fields_.Default(&training, kPath, T::kSeedFieldNumber, int64_t{0}, kOriginDefault);
    fields_.Default(&training, kPath, T::kMicrobatchTokensFieldNumber,
                    int64_t{on_gpu() ? 8192 : 512}, kOriginDefault);
    fields_.Default(&training, kPath, T::kReductionFieldNumber, int64_t{T::REDUCTION_FIXED_ORDER},
                    kOriginDefault);
    fields_.CheckEnum(training, kPath, T::kShardingFieldNumber);
    fields_.CheckEnum(training, kPath, T::kPrecisionFieldNumber);
    if (training.precision() == T::PRECISION_UNSPECIFIED ||
        training.precision() == T::PRECISION_AUTO) {
      const bool bf16 = on_gpu() || inputs_.cluster.cpu_bf16;
      fields_.Replace(&training, kPath, T::kPrecisionFieldNumber,
                      int64_t{bf16 ? T::PRECISION_BF16 : T::PRECISION_FP32},
                      on_gpu() ? kOriginDefault : kOriginCluster);
    }
    TrainingLimits(training);
  }

  void TrainingLimits(const v1::TrainingSpec& t) {
    constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
    fields_.CheckRange("training.epochs", t.epochs(), 1, 1000);
    fields_.CheckRange("training.max_steps", t.max_steps(), 0, kNoLimit);
    fields_.CheckRange("training.batch_size", t.batch_size(), 1, 65536);
    fields_.CheckDouble("training.learning_rate", t.learning_rate(), t.learning_rate() > 0,
                        "above 0");
    fields_.CheckDouble("training.warmup_ratio", t.warmup_ratio(),
                        t.warmup_ratio() >= 0 && t.warmup_ratio() <= 1, "0 to 1");
    fields_.CheckDouble("training.max_grad_norm", t.max_grad_norm(), t.max_grad_norm() >= 0,
                        "0 (never clip) or more");
    fields_.CheckDouble("training.weight_decay", t.weight_decay(), t.weight_decay() >= 0,
                        "0 or more");
    fields_.CheckDouble("training.adam_beta1", t.adam_beta1(),
                        t.adam_beta1() >= 0 && t.adam_beta1() < 1, "0 to below 1");
    fields_.CheckDouble("training.adam_beta2", t.adam_beta2(),
                        t.adam_beta2() >= 0 && t.adam_beta2() < 1, "0 to below 1");
    fields_.CheckDouble("training.adam_epsilon", t.adam_epsilon(), t.adam_epsilon() > 0, "above 0");
    fields_.CheckRange("training.microbatch_tokens", t.microbatch_tokens(), 1, 1 << 24);
    fields_.CheckEnum(t, "training.", v1::TrainingSpec::kScheduleFieldNumber);
    fields_.CheckEnum(t, "training.", v1::TrainingSpec::kReductionFieldNumber);
  }

  // Slots must divide the logical shards, which are a power of two, so that each rank sums whole
  // subtrees.
  void Shards() {
    v1::TrainingSpec& training = *spec_.mutable_training();
    CheckPowerOfTwo("resources.slots", std::max(1, spec_.resources().slots()));
    const int64_t slots = spec_.resources().max_slots();
    const int64_t batch_size = training.batch_size();
    if (slots < 1 || slots > kMaxSlots || batch_size < 1) return;  // said already
    if (IsPowerOfTwo(slots) && slots > batch_size) {
      issues_.AddError(
          kOutOfRange, "training.batch_size",
          absl::StrCat(batch_size, " examples a step are too few for ", slots, " slots"),
          absl::StrCat("use at least ", slots, ", or fewer slots"));
    }
    const int64_t wanted = std::max<int64_t>(kMinLogicalShards, NextPowerOfTwo(slots));
    fields_.Default(&training, "training.", v1::TrainingSpec::kLogicalShardsFieldNumber,
                    std::min(wanted, PreviousPowerOfTwo(batch_size)), kOriginDefault);
    const int64_t shards = training.logical_shards();
    if (!IsPowerOfTwo(shards) || shards > 65536) {
      issues_.AddError(kOutOfRange, "training.logical_shards",
                       absl::StrCat(shards, " is not a power of two from 1 to 65536"));
    } else if (IsPowerOfTwo(slots) && slots <= batch_size && slots > shards) {
      issues_.AddError(kOutOfRange, "training.logical_shards",
                       absl::StrCat(shards, " parts cannot be dealt to ", slots, " slots"),
                       absl::StrCat("use at least ", slots));
    }
  }

  // The plan of memory, and with it what sharding is chosen where the user leaves it open.
  void Memory() {
    v1::TrainingSpec& training = *spec_.mutable_training();
    const bool open = training.sharding() == v1::TrainingSpec::SHARDING_UNSPECIFIED ||
                      training.sharding() == v1::TrainingSpec::SHARDING_AUTO;
    const auto choose = [&](Sharding sharding, const char* origin) {
      if (!open) return;
      fields_.Replace(&training, "training.", v1::TrainingSpec::kShardingFieldNumber,
                      int64_t{ToProto(sharding)}, origin);
    };
    const int64_t slot_bytes =
        on_gpu() ? inputs_.cluster.bytes_per_gpu_slot : inputs_.cluster.bytes_per_cpu_slot;
    const bool known = inputs_.model != nullptr && inputs_.model->config.has_value();
    // A job with errors is not planned: its numbers may be anything.
    if (!known || slot_bytes == 0 || issues_.has_errors()) {
      choose(Sharding::kNone, kOriginDefault);
      return;
    }
    const MemoryQuestion question = MemoryQuestionOf(spec_, *inputs_.model->config);
    const int64_t available = BytesForTensors(slot_bytes);
    const absl::StatusOr<ShardingChoice> choice =
        open ? ChooseSharding(question, available)
             : JudgeSharding(question, ShardingOf(training.sharding()), available);
    if (!choice.ok()) {
      choose(Sharding::kNone, kOriginDefault);
      return;
    }
    choose(choice->sharding, kOriginCluster);
    v1::MemoryPlan& plan = *out_.mutable_memory_plan();
    plan = ToProto(choice->plan);
    plan.set_slots(question.world_size);
    plan.set_available_bytes(available);
    plan.set_reason(choice->why);
    if (!choice->fits) {
      issues_.AddWarning("NOT_ENOUGH_MEMORY", "resources.slots", choice->why,
                         question.world_size == 1
                             ? "use more slots, so that sharding can spread the state, or lower "
                               "training.microbatch_tokens or data.max_length"
                             : "use more slots, training.sharding: AUTO, or lower "
                               "training.microbatch_tokens or data.max_length");
    }
  }

  void Evaluation() {
    v1::EvaluationSpec& evaluation = *spec_.mutable_evaluation();
    fields_.Default(&evaluation, "evaluation.", v1::EvaluationSpec::kEveryStepsFieldNumber,
                    int64_t{0}, kOriginDefault);
    fields_.Default(&evaluation, "evaluation.", v1::EvaluationSpec::kMaxRowsFieldNumber,
                    int64_t{256}, kOriginDefault);
    fields_.CheckRange("evaluation.every_steps", evaluation.every_steps(), 0,
                       std::numeric_limits<int32_t>::max());
    fields_.CheckRange("evaluation.max_rows", evaluation.max_rows(), 1, 1000000);
  }

  void Output() {
    v1::OutputSpec& output = *spec_.mutable_output();
    fields_.Default(&output, "output.", v1::OutputSpec::kMergedFieldNumber, int64_t{false},
                    kOriginDefault);
    if (output.merged() && spec_.method().has_full()) {
      issues_.AddError(kConflict, "output.merged", "full fine-tuning has no adapter to merge",
                       "leave output.merged out, or use method.lora");
    }
  }

  void Labels() {
    if (spec_.labels().size() > kMaxLabels) {
      issues_.AddError(kTooMany, "labels",
                       absl::StrCat(spec_.labels().size(), " labels; at most ", kMaxLabels));
      return;
    }
    for (const auto& [key, value] :
         std::map<std::string, std::string>(spec_.labels().begin(), spec_.labels().end())) {
      const std::string path =
          absl::StrCat("labels.", FirstCharacters(key, kMaxLabelKeyCharacters));
      if (key.empty()) issues_.AddError(kMissing, "labels", "a label has an empty key");
      if (CharacterCount(key) > kMaxLabelKeyCharacters) {
        issues_.AddError(
            kTooLong, path,
            absl::StrCat("a label's key has at most ", kMaxLabelKeyCharacters, " characters"));
      }
      fields_.CheckText(path, value, kMaxLabelValueCharacters);
    }
  }

  const ResolveInputs& inputs_;
  Origins& origins_;
  v1::JobSpec spec_;
  v1::ResolvedJob out_;
  IssueList issues_;
  FieldRules fields_{&origins_, &issues_};
  std::set<std::string> seen_files_;
};

}  // namespace

bool Resolution::ok() const { return !HasErrors(issues); }

Resolution ResolveJob(const v1::JobSpec& spec, const ResolveInputs& inputs) {
  Origins origins;
  Resolution resolution = ResolveJob(spec, inputs, &origins);
  PutOrigins(origins, &resolution.job);
  return resolution;
}

Resolution ResolveJob(const v1::JobSpec& spec, const ResolveInputs& inputs, Origins* origins) {
  origins->clear();
  origins->reserve(64);  // a complete spec has some fifty leaves
  return Resolver(spec, inputs, origins).Run();
}

std::string FormatResolvedJob(const v1::ResolvedJob& job) {
  std::string out;
  ForEachLeaf(job.spec(), [&](const std::string& path, const Message& parent,
                              const FieldDescriptor& field) {
    const auto origin = job.origins().find(path);
    absl::StrAppend(&out, path, "  ", DumpJson(FieldToJson(parent, field)), "  (",
                    origin == job.origins().end() ? kOriginUser : origin->second, ")\n");
  });
  if (job.has_memory_plan()) {
    absl::StrAppend(&out, "memory  ", FormatMemoryPlan(job.memory_plan()), "\n");
  }
  return out;
}

}  // namespace anneal::spec
