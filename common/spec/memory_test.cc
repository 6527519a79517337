#include "common/spec/memory.h"

#include <numeric>

#include "common/format/model_tensors.h"
#include "common/spec/issues.h"
#include "common/spec/resolve.h"
#include "common/spec/yaml_loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::spec {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// SmolLM2-135M's config.json.
ModelConfig SmolLM2() {
  return {.family = "llama",
          .hidden_size = 576,
          .intermediate_size = 1536,
          .layers = 30,
          .heads = 9,
          .kv_heads = 3,
          .head_dim = 64,
          .vocab_size = 49152,
          .max_positions = 8192,
          .tie_word_embeddings = true};
}

// Resolved on CPU slots of so many bytes each; 0 = not known.
Resolution Resolve(const std::string& overrides, int64_t slot_bytes) {
  v1::JobSpec spec;
  EXPECT_THAT(
      LoadYaml(
          "model: models/m\ndata: {train: [file:///d/train.jsonl], max_length: 512}\n" + overrides,
          "job.yaml", &spec),
      IsEmpty());
  ModelFacts model;
  model.family = "llama";
  model.max_positions = 8192;
  model.config = SmolLM2();
  return ResolveJob(
      spec,
      {.model = &model,
       .cluster = {.cpu_slots = 4, .threads_per_cpu_slot = 1, .bytes_per_cpu_slot = slot_bytes}});
}

int64_t Sum(const MemoryQuestion& question, int64_t UnitSize::*field) {
  return std::accumulate(question.units.begin(), question.units.end(), int64_t{0},
                         [=](int64_t sum, const UnitSize& unit) { return sum + unit.*field; });
}

MemoryQuestion QuestionOf(const std::string& overrides) {
  return MemoryQuestionOf(Resolve(overrides, 0).job.spec(), SmolLM2());
}

TEST(MemoryQuestionTest, CountsTheModelsNumbers) {
  const int64_t parameters = ParameterCount(SmolLM2());
  ASSERT_EQ(parameters, 134'515'008);
  const MemoryQuestion full = QuestionOf("method: {full: {}}");
  EXPECT_EQ(full.units.size(), 32u);
  EXPECT_GE(Sum(full, &UnitSize::trainable), parameters);
  EXPECT_LT(Sum(full, &UnitSize::trainable), parameters * 1.02) << "padding";
  EXPECT_EQ(Sum(full, &UnitSize::frozen), 0);

  // Sixteen times what each linear layer of a block takes in and gives out.
  constexpr int64_t kAdapters = 30 * 162'816;
  const MemoryQuestion lora = QuestionOf("method: {lora: {rank: 16}}");
  EXPECT_GE(Sum(lora, &UnitSize::trainable), kAdapters);
  EXPECT_LT(Sum(lora, &UnitSize::trainable), kAdapters + 30 * 4 * 16'384);
  EXPECT_EQ(Sum(lora, &UnitSize::frozen), parameters);

  const MemoryQuestion one = QuestionOf(
      "method: {lora: {rank: 16, target_modules: [q_proj, v_proj], rank_pattern: {v_proj: 4}, "
      "modules_to_save: [lm_head]}}");
  EXPECT_EQ(one.units.front().frozen, 0) << "tied to the head, which is saved";
  EXPECT_GE(one.units.front().trainable, 49152 * 576);
  // q takes and gives 576, v takes 576 and gives 192; both fit the smallest padded buffer.
  EXPECT_EQ(one.units[1].trainable, one.logical_shards * 16'384);
}

TEST(MemoryQuestionTest, KnowsHowAStepIsCutUp) {
  MemoryQuestion question = QuestionOf(
      "training: {batch_size: 8, logical_shards: 4, microbatch_tokens: 8192}\n"
      "resources: {slots: 2}");
  EXPECT_EQ(question.world_size, 2);
  EXPECT_TRUE(question.all_together);
  EXPECT_FALSE(question.shards_have_cells);
  EXPECT_EQ(question.tokens_together, 4 * 512);
  EXPECT_EQ(question.cells_together, 2);
  question = QuestionOf(
      "training: {batch_size: 8, logical_shards: 4, microbatch_tokens: 512}\n"
      "resources: {slots: 2}");
  EXPECT_FALSE(question.all_together);
  EXPECT_TRUE(question.shards_have_cells);
  EXPECT_EQ(question.tokens_together, 512);
  EXPECT_EQ(question.cells_together, 1);
}

TEST(MemoryTest, AutoTakesTheFirstShardingThatFits) {
  constexpr char kJob[] =
      "method: {full: {}}\ntraining: {batch_size: 8, microbatch_tokens: 8192, precision: FP32}\n"
      "resources: {slots: 4}";
  int64_t needed = int64_t{64} << 30;
  for (const v1::TrainingSpec::Sharding sharding :
       {v1::TrainingSpec::SHARDING_NONE, v1::TrainingSpec::SHARDING_OPTIMIZER,
        v1::TrainingSpec::SHARDING_GRADIENTS, v1::TrainingSpec::SHARDING_FULL}) {
    const Resolution resolution = Resolve(kJob, needed);
    EXPECT_TRUE(resolution.ok());
    EXPECT_THAT(resolution.issues, IsEmpty());
    EXPECT_EQ(resolution.job.spec().training().sharding(), sharding);
    EXPECT_EQ(resolution.job.origins().at("training.sharding"), "cluster");
    const v1::MemoryPlan& plan = resolution.job.memory_plan();
    EXPECT_EQ(plan.slots(), 4);
    EXPECT_LE(plan.total_bytes(), plan.available_bytes());
    EXPECT_EQ(plan.available_bytes(), BytesForTensors(needed));
    EXPECT_THAT(plan.reason(), HasSubstr("NONE needs"));
    // Room for a little less than this mode takes.
    needed = static_cast<int64_t>(static_cast<double>(plan.total_bytes() + (int64_t{512} << 20)) /
                                  0.95) -
             (1 << 20);
  }
  const Resolution none = Resolve(kJob, needed);
  EXPECT_TRUE(none.ok()) << "the fleet may grow";
  EXPECT_EQ(none.job.spec().training().sharding(), v1::TrainingSpec::SHARDING_FULL);
  ASSERT_EQ(none.issues.size(), 1u);
  EXPECT_EQ(none.issues[0].code(), "NOT_ENOUGH_MEMORY");
  EXPECT_THAT(none.issues[0].message(), HasSubstr("are there: none fits"));
}

TEST(MemoryTest, TheUsersShardingIsKeptAndJudged) {
  const std::string job = "training: {sharding: GRADIENTS}\nresources: {slots: 2}";
  Resolution resolution = Resolve(job, int64_t{16} << 30);
  EXPECT_EQ(resolution.job.origins().at("training.sharding"), "user");
  EXPECT_THAT(resolution.job.memory_plan().reason(), HasSubstr("GRADIENTS needs"));
  EXPECT_THAT(FormatResolvedJob(resolution.job),
              AllOf(HasSubstr("\nmemory  "), HasSubstr("GiB a slot, on 2 slots: weights 0."),
                    HasSubstr("(GRADIENTS needs")));
  resolution = Resolve(job, int64_t{1} << 30);
  ASSERT_EQ(resolution.issues.size(), 1u);
  EXPECT_EQ(resolution.issues[0].code(), "NOT_ENOUGH_MEMORY");
  EXPECT_EQ(resolution.job.spec().training().sharding(), v1::TrainingSpec::SHARDING_GRADIENTS);
}

TEST(MemoryTest, WhatIsNotKnownIsNotPlanned) {
  const Resolution resolution = Resolve("", 0);
  EXPECT_FALSE(resolution.job.has_memory_plan());
  EXPECT_EQ(resolution.job.spec().training().sharding(), v1::TrainingSpec::SHARDING_NONE);
  EXPECT_EQ(resolution.job.origins().at("training.sharding"), "default");
}

}  // namespace
}  // namespace anneal::spec
