#include "common/spec/resolve.h"

#include <limits>
#include <string>

#include "common/spec/issues.h"
#include "common/spec/message_json.h"
#include "common/spec/references.h"
#include "common/spec/training_difference.h"
#include "common/spec/yaml_loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::spec {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

constexpr char kMinimal[] = "model: models/m\ndata: {train: [file:///d/train.jsonl]}\n";

v1::JobSpec Spec(const std::string& overrides = "") {
  v1::JobSpec spec;
  EXPECT_THAT(LoadYaml(kMinimal + overrides, "job.yaml", &spec), IsEmpty());
  return spec;
}

ModelFacts SmallModel() {
  ModelFacts model;
  model.family = "llama";
  model.max_positions = 512;
  model.content_hash = "abc";
  model.linear_modules = {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj",
                          "model.layers.1.mlp.up_proj"};
  return model;
}

ClusterFacts TwoCpuSlots() { return {.cpu_slots = 2, .threads_per_cpu_slot = 3}; }

Resolution Resolve(const v1::JobSpec& spec, const ModelFacts* model = nullptr) {
  ResolveInputs inputs{
      .model = model, .cluster = TwoCpuSlots(), .template_time = absl::FromUnixSeconds(1234)};
  return ResolveJob(spec, inputs);
}

// "code field" of each issue.
std::vector<std::string> Codes(const Resolution& resolution) {
  std::vector<std::string> codes;
  for (const v1::Issue& issue : resolution.issues)
    codes.push_back(issue.code() + " " + issue.field());
  return codes;
}

TEST(ResolveTest, FillsTheDocumentedDefaultsAndSaysWhereEachCameFrom) {
  const Resolution resolution = Resolve(Spec());
  EXPECT_TRUE(resolution.ok());
  EXPECT_THAT(resolution.issues, IsEmpty());
  EXPECT_EQ(FormatResolvedJob(resolution.job), R"(display_name  "m-train"  (default)
model  "models/m"  (user)
method.lora.rank  16  (default)
method.lora.alpha  32.0  (default)
method.lora.dropout  0.0  (default)
method.lora.target_modules  ["all-linear"]  (default)
method.lora.use_rslora  false  (default)
data.train  ["file:///d/train.jsonl"]  (user)
data.validation.fraction  0.05  (default)
data.max_length  2048  (default)
data.over_length  "OVER_LENGTH_REJECT"  (default)
data.train_on  "TRAIN_ON_ASSISTANT"  (default)
training.epochs  3  (default)
training.max_steps  0  (default)
training.batch_size  16  (default)
training.learning_rate  0.0002  (default)
training.schedule  "SCHEDULE_COSINE"  (default)
training.warmup_ratio  0.03  (default)
training.max_grad_norm  1.0  (default)
training.weight_decay  0.0  (default)
training.adam_beta1  0.9  (default)
training.adam_beta2  0.999  (default)
training.adam_epsilon  1e-08  (default)
training.seed  0  (default)
training.microbatch_tokens  512  (default)
training.logical_shards  4  (default)
training.precision  "PRECISION_FP32"  (cluster)
training.reduction  "REDUCTION_FIXED_ORDER"  (default)
training.sharding  "SHARDING_NONE"  (default)
resources.slots  1  (default)
resources.accelerator  "ACCELERATOR_CPU"  (cluster)
resources.threads_per_slot  3  (cluster)
resources.min_slots  1  (default)
resources.max_slots  1  (default)
evaluation.every_steps  0  (default)
evaluation.max_rows  256  (default)
output.merged  false  (default)
checkpoint.every  "600s"  (default)
checkpoint.keep_last  2  (default)
limits.max_hours  0.0  (default)
limits.max_slot_seconds  0.0  (default)
retry.max_infrastructure_failures  100  (default)
retry.max_user_failures  0  (default)
retry.max_unknown_failures  3  (default)
priority  "PRIORITY_NORMAL"  (default)
)");
  EXPECT_EQ(resolution.job.template_time().seconds(), 1234);
}

TEST(ResolveTest, ResolvingAResolvedSpecChangesNothing) {
  const ModelFacts model = SmallModel();
  const Resolution first = Resolve(Spec("training: {epochs: 2}"), &model);
  const Resolution again = Resolve(first.job.spec(), &model);
  EXPECT_EQ(again.job.spec().SerializeAsString(), first.job.spec().SerializeAsString());
  EXPECT_EQ(first.job.origins().at("training.epochs"), "user");
  EXPECT_EQ(first.job.model_content_hash(), "abc");
}

TEST(ResolveTest, TheModelBoundsTheRowLength) {
  const ModelFacts model = SmallModel();
  const Resolution fits = Resolve(Spec(), &model);
  EXPECT_EQ(fits.job.spec().data().max_length(), 512);
  EXPECT_EQ(fits.job.origins().at("data.max_length"), "model");
  v1::JobSpec too_long = Spec();
  too_long.mutable_data()->set_max_length(513);
  EXPECT_THAT(Codes(Resolve(too_long, &model)), ElementsAre("OUT_OF_RANGE data.max_length"));
}

TEST(ResolveTest, GpusAndFullFineTuningHaveTheirOwnDefaults) {
  ResolveInputs inputs{.cluster = {.gpu_slots = 8, .cpu_slots = 2, .threads_per_gpu_slot = 12}};
  const Resolution resolution =
      ResolveJob(Spec("method: {full: {}}\nresources: {slots: 8}"), inputs);
  EXPECT_TRUE(resolution.ok());
  const v1::JobSpec& spec = resolution.job.spec();
  EXPECT_TRUE(spec.method().has_full());
  EXPECT_EQ(spec.training().learning_rate(), 1e-5);
  EXPECT_EQ(spec.training().microbatch_tokens(), 8192);
  EXPECT_EQ(spec.training().logical_shards(), 8);
  EXPECT_EQ(spec.training().precision(), v1::TrainingSpec::PRECISION_BF16);
  EXPECT_EQ(spec.resources().accelerator(), v1::ResourceSpec::ACCELERATOR_GPU);
  EXPECT_EQ(spec.resources().threads_per_slot(), 12);
  EXPECT_EQ(resolution.job.origins().count("method.lora.rank"), 0);
}

TEST(ResolveTest, NamesEveryProblemAtOnce) {
  const v1::JobSpec spec = [] {
    v1::JobSpec s;
    s.set_model("smollm2");
    s.set_display_name(std::string(129, 'x'));
    s.mutable_method()->mutable_lora()->set_rank(0);
    s.mutable_method()->mutable_lora()->set_dropout(1.0);
    s.mutable_data()->mutable_validation()->add_files("files/nope");
    s.mutable_data()->mutable_validation()->set_fraction(0.1);
    s.mutable_training()->set_learning_rate(std::numeric_limits<double>::quiet_NaN());
    s.mutable_training()->set_adam_epsilon(std::numeric_limits<double>::infinity());
    s.mutable_training()->set_epochs(-3);
    s.mutable_training()->set_schedule(static_cast<v1::TrainingSpec::Schedule>(77));
    s.mutable_resources()->set_slots(3);
    s.mutable_evaluation()->set_max_rows(0);
    (*s.mutable_labels())["k"] = "line\nbreak";
    return s;
  }();
  const Resolution resolution = Resolve(spec);
  EXPECT_FALSE(resolution.ok());
  EXPECT_THAT(Codes(resolution),
              IsSupersetOf({"BAD_REFERENCE model", "TOO_LONG display_name",
                            "OUT_OF_RANGE method.lora.rank", "OUT_OF_RANGE method.lora.dropout",
                            "MISSING_FIELD data.train", "BAD_REFERENCE data.validation.files[0]",
                            "CONFLICT data.validation", "OUT_OF_RANGE training.learning_rate",
                            "OUT_OF_RANGE training.adam_epsilon", "OUT_OF_RANGE training.epochs",
                            "UNKNOWN_VALUE training.schedule", "OUT_OF_RANGE resources.slots",
                            "OUT_OF_RANGE evaluation.max_rows", "BAD_TEXT labels.k"}));
  EXPECT_EQ(resolution.issues[0].hint(), "did you mean models/smollm2?");
}

TEST(ResolveTest, TargetModulesAreSuffixesOfTheModelsLinearLayers) {
  const ModelFacts model = SmallModel();
  v1::JobSpec spec = Spec(
      "method: {lora: {target_modules: [q_proj, self_attn.v_proj, model.layers.1.mlp.up_proj]}}");
  EXPECT_TRUE(Resolve(spec, &model).ok());
  spec = Spec("method: {lora: {target_modules: [q_porj, proj, all-linear]}}");
  const Resolution resolution = Resolve(spec, &model);
  EXPECT_THAT(Codes(resolution), ElementsAre("UNKNOWN_MODULE method.lora.target_modules[0]",
                                             "UNKNOWN_MODULE method.lora.target_modules[1]",
                                             "CONFLICT method.lora.target_modules[2]"));
  EXPECT_EQ(resolution.issues[0].hint(), "did you mean q_proj?");
  EXPECT_THAT(resolution.issues[1].message(),
              HasSubstr("no linear layer 'proj'; there are q_proj"));
}

TEST(ResolveTest, LoraPatternsNameAdaptedModules) {
  const ModelFacts model = SmallModel();
  EXPECT_TRUE(
      Resolve(Spec("method: {lora: {rank_pattern: {up_proj: 4, mlp.up_proj: 8}, "
                   "alpha_pattern: {q_proj: 2.5}, modules_to_save: [embed_tokens, lm_head]}}"),
              &model)
          .ok());
  const Resolution resolution = Resolve(
      Spec("method: {lora: {target_modules: [q_proj], rank_pattern: {q_proj: 0, up_proj: 4}, "
           "alpha_pattern: {c_attn: -1}, modules_to_save: [norm, embed_tokens]}}"),
      &model);
  EXPECT_THAT(Codes(resolution), ElementsAre("OUT_OF_RANGE method.lora.rank_pattern.q_proj",
                                             "CONFLICT method.lora.rank_pattern.up_proj",
                                             "OUT_OF_RANGE method.lora.alpha_pattern.c_attn",
                                             "UNKNOWN_MODULE method.lora.alpha_pattern.c_attn",
                                             "UNKNOWN_MODULE method.lora.modules_to_save[0]"));
}

TEST(ResolveTest, AutomaticPrecisionIsBf16OnlyWhereTheProcessorsMultiplyIt) {
  const auto precision = [](const ClusterFacts& cluster) {
    ResolveInputs inputs;
    inputs.cluster = cluster;
    const Resolution resolution = ResolveJob(Spec(), inputs);
    return v1::TrainingSpec::Precision_Name(resolution.job.spec().training().precision()) + " " +
           resolution.job.origins().at("training.precision");
  };
  EXPECT_EQ(precision({.cpu_slots = 2}), "PRECISION_FP32 cluster");
  EXPECT_EQ(precision({.cpu_slots = 2, .cpu_bf16 = true}), "PRECISION_BF16 cluster");
  EXPECT_EQ(precision({.gpu_slots = 1}), "PRECISION_BF16 default");
}

TEST(ResolveTest, ShardsAreAPowerOfTwoThatSlotsDivide) {
  const auto shards = [](int batch_size, int slots) {
    v1::JobSpec spec = Spec();
    spec.mutable_training()->set_batch_size(batch_size);
    spec.mutable_resources()->set_slots(slots);
    return Resolve(spec);
  };
  EXPECT_EQ(shards(16, 1).job.spec().training().logical_shards(), 4);
  EXPECT_EQ(shards(3, 2).job.spec().training().logical_shards(), 2);
  EXPECT_EQ(shards(64, 16).job.spec().training().logical_shards(), 16);
  EXPECT_THAT(Codes(shards(4, 8)), Contains("OUT_OF_RANGE training.batch_size"));
  EXPECT_THAT(Codes(shards(16, 6)), Contains("OUT_OF_RANGE resources.slots"));
  v1::JobSpec odd = Spec("training: {logical_shards: 6}");
  EXPECT_THAT(Codes(Resolve(odd)), ElementsAre("OUT_OF_RANGE training.logical_shards"));
  v1::JobSpec few = Spec("training: {logical_shards: 1}\nresources: {slots: 2}");
  EXPECT_THAT(Codes(Resolve(few)), ElementsAre("OUT_OF_RANGE training.logical_shards"));
}

TEST(ResolveTest, AnElasticJobRunsBetweenItsTwoNumbersOfSlots) {
  const Resolution up = Resolve(Spec("resources: {min_slots: 1, max_slots: 8}"));
  EXPECT_TRUE(up.ok());
  EXPECT_EQ(up.job.spec().resources().slots(), 8);
  EXPECT_EQ(up.job.spec().training().logical_shards(), 8);
  const Resolution from = Resolve(Spec("resources: {min_slots: 2, slots: 4}"));
  EXPECT_TRUE(from.ok());
  EXPECT_EQ(from.job.spec().resources().max_slots(), 4);
  EXPECT_THAT(Codes(Resolve(Spec("resources: {min_slots: 2, max_slots: 1}"))),
              ElementsAre("CONFLICT resources"));
  EXPECT_THAT(Codes(Resolve(Spec("resources: {min_slots: 3, max_slots: 8}"))),
              Contains("OUT_OF_RANGE resources.min_slots"));
  EXPECT_THAT(Codes(Resolve(Spec("resources: {max_slots: 32}"))),
              Contains("OUT_OF_RANGE training.batch_size"));
}

TEST(ResolveTest, CheckpointsLimitsAndRetriesAreBounded) {
  const Resolution good =
      Resolve(Spec("checkpoint: {every: 90s, keep_last: 5}\nlimits: {max_hours: 1.5}\n"
                   "retry: {max_user_failures: 2}\npriority: HIGH\ntraining: {sharding: full}"));
  EXPECT_TRUE(good.ok());
  EXPECT_EQ(good.job.spec().checkpoint().every().seconds(), 90);
  EXPECT_EQ(good.job.origins().at("checkpoint.every"), "user");
  EXPECT_EQ(good.job.spec().priority(), v1::JobSpec::PRIORITY_HIGH);
  EXPECT_EQ(good.job.spec().training().sharding(), v1::TrainingSpec::SHARDING_FULL);
  EXPECT_TRUE(Resolve(Spec("checkpoint: {every: 0s}")).ok()) << "none but when told";
  v1::JobSpec bad = Spec(
      "checkpoint: {every: 5000h, keep_last: 0}\nlimits: {max_hours: -1}\n"
      "retry: {max_unknown_failures: -1}");
  bad.set_priority(static_cast<v1::JobSpec::Priority>(9));
  EXPECT_THAT(Codes(Resolve(bad)),
              ElementsAre("OUT_OF_RANGE checkpoint.every", "OUT_OF_RANGE checkpoint.keep_last",
                          "OUT_OF_RANGE limits.max_hours",
                          "OUT_OF_RANGE retry.max_unknown_failures", "UNKNOWN_VALUE priority"));
}

TEST(ResolveTest, WarnsWhenTheFleetCannotRunTheJobYet) {
  const Resolution none = ResolveJob(Spec(), {});
  EXPECT_TRUE(none.ok());
  EXPECT_THAT(Codes(none), ElementsAre("NO_WORKERS resources"));
  const Resolution few = Resolve(Spec("resources: {slots: 4}"));
  EXPECT_TRUE(few.ok());
  EXPECT_THAT(Codes(few), ElementsAre("NOT_ENOUGH_SLOTS resources.slots"));
  EXPECT_THAT(few.issues[0].message(), HasSubstr("needs 4 CPU slots; the fleet has 2"));
}

TEST(ResolveTest, MergingNeedsAnAdapter) {
  EXPECT_THAT(Codes(Resolve(Spec("method: {full: }\noutput: {merged: true}"))),
              ElementsAre("CONFLICT output.merged"));
}

TEST(TrainingDifferenceTest, NamesWhatWouldBeComputedOtherwise) {
  const ModelFacts model = SmallModel();
  const auto resolved = [&](const std::string& overrides) {
    return Resolve(Spec(overrides), &model).job;
  };
  const v1::ResolvedJob job = resolved("training: {epochs: 2}");
  EXPECT_EQ(TrainingDifference(job, job), "");
  EXPECT_EQ(TrainingDifference(
                job, resolved("training: {epochs: 2, sharding: FULL}\nresources: {slots: 2}\n"
                              "priority: LOW\ncheckpoint: {every: 5s}\nlimits: {max_hours: 1}")),
            "");
  EXPECT_EQ(TrainingDifference(job, resolved("training: {epochs: 3}")), "training.epochs");
  EXPECT_EQ(TrainingDifference(job, resolved("training: {epochs: 2}\nmethod: {full: {}}")),
            "method.full");
  v1::ResolvedJob other_model = job;
  other_model.set_model_content_hash("def");
  EXPECT_EQ(TrainingDifference(job, other_model), "model");
}

TEST(ReferencesTest, FormsOfModelsAndFiles) {
  EXPECT_EQ(ModelReferenceProblem("models/smollm2-135m-instruct"), "");
  EXPECT_EQ(ModelReferenceProblem("jobs/01hf7yat00abcdefghjkmnpqrs/artifacts/model"), "");
  EXPECT_EQ(ModelReferenceProblem("file:///srv/models/m"), "");
  EXPECT_EQ(PathOfFileUri("file:///srv/models/m"), "/srv/models/m");
  for (const char* bad :
       {"models/", "models/A", "models/a/b", "jobs/x/artifacts/model", "file://host/m",
        "file:///a/../b", "file:///a//b", "file:///", "/srv/m", "models/..\n"}) {
    EXPECT_NE(ModelReferenceProblem(bad), "") << bad;
  }
  EXPECT_EQ(FileReferenceProblem("files/01hf7yat00abcdefghjkmnpqrs"), "");
  EXPECT_NE(FileReferenceProblem("train.jsonl"), "");
  EXPECT_NE(FileReferenceProblem("files/../x"), "");
  EXPECT_NE(FileReferenceProblem("file:///" + std::string(5000, 'a')), "");
}

TEST(ResolveTest, LoraModulesHaveNamesOfSomeLength) {
  v1::JobSpec spec = Spec("method: {lora: {target_modules: [q_proj]}}");
  const std::string longest(200, 'x'), longer(201, 'x');
  v1::LoraMethod& lora = *spec.mutable_method()->mutable_lora();
  lora.add_target_modules(longer);
  lora.add_modules_to_save(longer);
  (*lora.mutable_rank_pattern())[longer] = 4;
  EXPECT_THAT(Codes(Resolve(spec)),
              ElementsAre("TOO_LONG method.lora.target_modules[1]",
                          absl::StrCat("TOO_LONG method.lora.rank_pattern.", longest),
                          "TOO_LONG method.lora.modules_to_save[0]"));
}

TEST(IssuesTest, SuggestsTheNearestName) {
  EXPECT_EQ(ClosestMatch("epoch", {"batch_size", "epochs"}), "epochs");
  EXPECT_EQ(ClosestMatch("leanring_rate", {"learning_rate", "lora"}), "learning_rate");
  EXPECT_EQ(ClosestMatch("zzz", {"epochs"}), "");
  EXPECT_EQ(ClosestMatch(std::string(1 << 20, 'e'), {"epochs"}), "");
  EXPECT_EQ(SuggestionHint("zzz", {"a_long_name", "b_long_name"}),
            "known here: a_long_name, b_long_name");
}

TEST(IssuesTest, OneLineEvenForHostileText) {
  v1::Issue issue;
  issue.set_severity(v1::Issue::SEVERITY_ERROR);
  issue.set_file("job\n.yaml");
  issue.set_line(3);
  issue.set_column(5);
  issue.set_field("training.epoch");
  issue.set_message("unknown field \x1b[2J");
  issue.set_hint("did you mean epochs?");
  EXPECT_EQ(
      FormatIssue(issue),
      "job\\x0a.yaml:3:5: error: training.epoch: unknown field \\x1b[2J (did you mean epochs?)");
}

TEST(MessageJsonTest, SnakeCaseNumbersAndPresence) {
  v1::Job job;
  job.set_generation(int64_t{1} << 60);
  job.mutable_create_time()->set_seconds(1'700'000'000);
  job.mutable_create_time()->set_nanos(500'000'000);
  job.mutable_result()->mutable_train_time()->set_seconds(90);
  job.mutable_result()->mutable_train_time()->set_nanos(250'000'000);
  job.mutable_progress()->set_train_loss(std::numeric_limits<double>::quiet_NaN());
  job.set_state(v1::JOB_STATE_RUNNING);
  (*job.mutable_spec()->mutable_labels())["b"] = "2";
  (*job.mutable_spec()->mutable_labels())["a"] = "1";
  job.mutable_error()->add_details()->PackFrom(job.progress());
  const Json json = MessageToJson(job);
  EXPECT_EQ(json["generation"].dump(), "1152921504606846976");
  EXPECT_EQ(json["create_time"], "2023-11-14T22:13:20.5Z");
  EXPECT_EQ(json["result"]["train_time"], "90.25s");
  EXPECT_EQ(json["progress"]["train_loss"], "NaN");
  EXPECT_FALSE(json["progress"].contains("validation_loss"));
  EXPECT_EQ(json["state"], "JOB_STATE_RUNNING");
  EXPECT_EQ(json["spec"]["labels"].dump(), R"({"a":"1","b":"2"})");
  EXPECT_EQ(json["spec"]["model"], "");
  EXPECT_FALSE(json.contains("finish_time"));
  EXPECT_EQ(json["error"]["details"][0]["@type"], "type.googleapis.com/anneal.v1.JobProgress");
  EXPECT_EQ(json["error"]["details"][0]["step"], 0);
}

TEST(MessageJsonTest, WhatItWritesTheLoaderReads) {
  v1::JobSpec spec =
      Resolve(Spec("labels: {run: 7}\ntraining: {seed: 18446744073709551615}")).job.spec();
  v1::JobSpec back;
  EXPECT_THAT(LoadYaml(DumpJson(MessageToJson(spec)), "job.json", &back), IsEmpty());
  EXPECT_EQ(DumpJson(MessageToJson(back)), DumpJson(MessageToJson(spec)));
  EXPECT_EQ(back.training().seed(), std::numeric_limits<uint64_t>::max());
}

}  // namespace
}  // namespace anneal::spec
