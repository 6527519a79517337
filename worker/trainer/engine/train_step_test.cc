// Steps of a real decoder: packing, micro-batches and parts change nothing but rounding; ranks,
// sharding, schedules and threads change no bit.

#include "worker/trainer/engine/train_step.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "worker/trainer/collective/solo_communicator.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"
#include "worker/trainer/engine/cell_pass.h"
#include "worker/trainer/engine/cpu_accelerator.h"
#include "worker/trainer/engine/testing/fake_decoder.h"
#include "worker/trainer/model/testing/tiny_model.h"

namespace anneal::trainer {
namespace {

namespace fs = std::filesystem;
using ::anneal::testing::IsOk;
using ::anneal::trainer::testing::RunOnRanks;
using ::anneal::trainer::testing::TinyModel;
using ::anneal::trainer::testing::WriteTinyModel;

constexpr int64_t kAlignment = 64;
constexpr int64_t kAllTogether = 1'000'000;

struct Row {
  std::vector<int32_t> token_ids;
  std::vector<uint8_t> loss_weight;
};
using Rows = std::vector<Row>;

ExampleReader ReaderOf(const Rows& rows) {
  return [&rows](int64_t row) -> absl::StatusOr<PreparedExample> {
    return PreparedExample{.token_ids = rows[row].token_ids, .loss_weight = rows[row].loss_weight};
  };
}

// Rows of 2 to 48 tokens, of which any but the first may count for the loss, and at least one does.
Rows RandomRows(const ModelConfig& config, int count, uint64_t seed) {
  SeededRandom random(seed);
  Rows rows(count);
  for (Row& row : rows) {
    const int64_t length = 2 + static_cast<int64_t>(random.Next() % 47);
    const double density = random.NextDouble();
    for (int64_t p = 0; p < length; ++p) {
      row.token_ids.push_back(static_cast<int32_t>(random.Next() % config.vocab_size));
      row.loss_weight.push_back(p > 0 && random.NextDouble() < density);
    }
    row.loss_weight[1 + random.Next() % (length - 1)] = 1;
  }
  return rows;
}

int64_t SupervisedTokens(const Row& row) {
  return std::count(row.loss_weight.begin(), row.loss_weight.end(), 1);
}

class TrainStepTest : public ::testing::Test {
 protected:
  TrainStepTest() : dir_(absl::StrCat(::testing::TempDir(), "train_step_", ::getpid())) {}
  ~TrainStepTest() override {
    fs::remove_all(dir_);
    at::set_num_threads(1);
  }

  std::unique_ptr<Decoder> Load(Accelerator& accelerator, std::optional<protocol::LoraOptions> lora,
                                bool lent = false) const {
    auto decoder =
        Decoder::Load(dir_, {.lora = std::move(lora), .lent = lent}, accelerator.kernels());
    ANNEAL_CHECK_OK(decoder.status());
    return *std::move(decoder);
  }
  // LoRA's B matrices begin at zero, which would hide half of the gradients.
  static absl::Status LeaveNothingAtZero(const FlatLayout& layout, Decoder& decoder,
                                         ShardedValues& values) {
    at::Generator generator = at::detail::createCPUGenerator(4);
    FlatBuffers start(layout, at::kCPU);
    for (int unit = 0; unit < start.units(); ++unit) {
      if (!start.flat(unit).defined()) continue;
      ANNEAL_RETURN_IF_ERROR(decoder.InitialValues(unit, 3, start.views(unit)));
      for (at::Tensor& value : start.views(unit)) {
        if (value.count_nonzero().item<int64_t>() == 0)
          value.copy_(at::randn(value.sizes(), generator).mul(0.1));
      }
      at::Tensor own = values.own()[unit];
      own.copy_(values.part().Of(start.flat(unit)));
    }
    return values.Share("test");
  }

  const std::string dir_;
};

// ---- To rounding: packing, micro-batches, parts. ----

// How the rows of a step are cut up.
struct Cut {
  int parts;
  int64_t microbatch_tokens;
  int64_t tokens_together;
};

struct StepGradient {
  double loss;
  FlatBuffers gradient;
};

class CutTest : public TrainStepTest, public ::testing::WithParamInterface<bool> {
 protected:
  CutTest()
      : model_(WriteTinyModel(dir_, /*tied=*/true)),
        decoder_(Load(*accelerator_, LoraIfAsked())),
        layout_(decoder_->units(), 8, kAlignment),
        frozen_layout_(decoder_->frozen_units(), 8, kAlignment),
        values_(layout_, frozen_layout_, {}, *decoder_, *communicator_) {
    ANNEAL_CHECK_OK(values_.Initialise(3));
    ANNEAL_CHECK_OK(LeaveNothingAtZero(layout_, *decoder_, values_));
  }

  static std::optional<protocol::LoraOptions> LoraIfAsked() {
    if (!GetParam()) return std::nullopt;
    return protocol::LoraOptions{.rank = 4, .alpha = 8};
  }

  // Deals the rows over the parts in blocks of uneven size and computes the whole step.
  StepGradient Compute(const Rows& rows, const Cut& cut, uint64_t seed) {
    SeededRandom random(seed);
    std::vector<std::vector<int64_t>> parts(8);
    for (int64_t row = 0; row < static_cast<int64_t>(rows.size()); ++row) {
      const uint64_t biased = std::min(random.Next() % cut.parts, random.Next() % cut.parts);
      parts[biased].push_back(row);
    }
    int64_t supervised = 0;
    for (const Row& row : rows) supervised += SupervisedTokens(row);
    const BatchAssembler assembler(ReaderOf(rows), cut.microbatch_tokens);
    std::vector<std::vector<MicroBatch>> batches;
    for (int part = 0; part < 8; ++part)
      batches.push_back(*assembler.Assemble(1, part, parts[part]));

    TreeAccumulator sums(layout_, at::kCPU);
    Whereabouts whereabouts(Clock::Real());
    PhaseTimer timer(Clock::Real(), *accelerator_, whereabouts);
    protocol::RankReport phases;
    double loss = 0;
    std::vector<PlacedCell> together;
    int64_t tokens = 0;
    const auto pass = [&] {
      if (together.empty()) return;
      const CellPass cell_pass{.decoder = *decoder_,
                               .values = values_,
                               .sums = sums,
                               .timer = timer,
                               .phases = phases,
                               .step = 1,
                               .seed = 3,
                               .loss_scale = 1.0 / static_cast<double>(supervised),
                               .after_backward = [](int) { return absl::OkStatus(); }};
      const auto losses = TrainCells(cell_pass, together);
      ANNEAL_CHECK_OK(losses.status());
      for (double cell : *losses) loss += cell;
      together.clear();
      tokens = 0;
    };
    for (int part = 0; part < 8; ++part) {
      for (const MicroBatch& batch : batches[part]) {
        together.push_back({part, &batch == &batches[part].back(), &batch});
        tokens += static_cast<int64_t>(batch.token_ids.size());
        if (tokens >= cut.tokens_together) pass();
      }
    }
    pass();
    std::vector<UnitBuffer> roots;
    for (int unit = 0; unit < static_cast<int>(layout_.units().size()); ++unit)
      roots.push_back(sums.TakeRoot(unit, 8));
    return {loss / supervised, FlatBuffers(std::move(roots))};
  }

  const std::unique_ptr<Accelerator> accelerator_ = MakeCpuAccelerator();
  const TinyModel model_;
  const std::unique_ptr<Decoder> decoder_;
  const FlatLayout layout_, frozen_layout_;
  const std::unique_ptr<Communicator> communicator_ = MakeSoloCommunicator();
  ShardedValues values_;
};

double NormOf(const FlatBuffers& a, const FlatBuffers* minus = nullptr) {
  double squares = 0;
  for (int unit = 0; unit < a.units(); ++unit) {
    for (size_t i = 0; i < a.views(unit).size(); ++i) {
      at::Tensor value = a.views(unit)[i].to(at::kDouble);
      if (minus != nullptr) value = value.sub(minus->views(unit)[i].to(at::kDouble));
      squares += value.square().sum().item<double>();
    }
  }
  return std::sqrt(squares);
}

// fp32 sums of at most 400 tokens in another order: about 1e-7 of the norm each; the bound
// leaves room.
constexpr double kRounding = 1e-5;

TEST_P(CutTest, HoweverAStepIsCutItsLossAndGradientAreTheSame) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const int count =
        std::vector<int>{16, 9, 3, 1}[seed - 1];  // the last ones as at the end of an epoch
    const Rows rows = RandomRows(model_.config, count, seed);
    const StepGradient unpacked =
        Compute(rows, {.parts = 1, .microbatch_tokens = 1, .tokens_together = 0}, seed);
    const double norm = NormOf(unpacked.gradient);
    ASSERT_GT(norm, 0);
    for (int parts = 1; parts <= 8; ++parts) {
      for (int64_t microbatch_tokens : {int64_t{1}, int64_t{50}, int64_t{130}, kAllTogether}) {
        for (int64_t tokens_together : {int64_t{0}, int64_t{120}, kAllTogether}) {
          const StepGradient cut = Compute(rows, {parts, microbatch_tokens, tokens_together}, seed);
          const std::string what =
              absl::StrCat("seed ", seed, ", ", parts, " parts, micro-batches of ",
                           microbatch_tokens, " tokens, ", tokens_together, " together");
          EXPECT_NEAR(cut.loss, unpacked.loss, kRounding * unpacked.loss) << what;
          EXPECT_LT(NormOf(cut.gradient, &unpacked.gradient), kRounding * norm) << what;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(LoraAndFull, CutTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Lora" : "Full"; });

// ---- To the bit: ranks, sharding, schedules, threads. ----

struct Layout {
  int world_size = 1;
  int64_t tokens_together = 0;
  int threads = 1;
  Sharding sharding = Sharding::kNone;
  Reduction reduction = Reduction::kFixedOrder;
};

// What the owners of parts hold together.
absl::StatusOr<at::Tensor> Whole(const at::Tensor& own, const Part& part,
                                 Communicator& communicator) {
  if (part.count == 1) return own;
  at::Tensor whole = at::empty({part.count * own.numel()});
  ANNEAL_RETURN_IF_ERROR(communicator.AllGather(own, whole, "compare"));
  return whole;
}

// All that a run leaves: ledger lines, losses, and the bytes of values and moments.
struct Remains {
  std::vector<std::string> ledger;
  std::vector<double> losses;
  std::vector<at::Tensor> state;

  bool operator==(const Remains& other) const {
    return ledger == other.ledger &&
           std::equal(state.begin(), state.end(), other.state.begin(), other.state.end(),
                      [](const at::Tensor& a, const at::Tensor& b) { return at::equal(a, b); });
  }
};

class SameBitsTest : public TrainStepTest {
 protected:
  static constexpr int kShards = 4, kSteps = 6, kBatch = 7;

  Remains Train(const Rows& rows, const std::optional<protocol::LoraOptions>& lora,
                const Layout& layout) const {
    std::vector<RowSize> sizes;
    for (const Row& row : rows) {
      sizes.push_back({static_cast<int32_t>(row.token_ids.size()),
                       static_cast<int32_t>(SupervisedTokens(row))});
    }
    const StepPlan plan = *StepPlan::Create(
        sizes, {.seed = 5, .batch_size = kBatch, .logical_shards = kShards, .epochs = 10});
    Remains remains;
    EXPECT_THAT(RunOnRanks(layout.world_size,
                           [&](Communicator& communicator) -> absl::Status {
                             at::set_num_threads(layout.threads);
                             return TrainRank(rows, plan, lora, layout, communicator, remains);
                           }),
                IsOk());
    return remains;
  }

 private:
  absl::Status TrainRank(const Rows& rows, const StepPlan& plan,
                         const std::optional<protocol::LoraOptions>& lora, const Layout& run,
                         Communicator& communicator, Remains& remains) const {
    const auto accelerator = MakeCpuAccelerator();
    const bool lent = EffectiveSharding(run.sharding, run.world_size) == Sharding::kFull;
    const auto decoder = Load(*accelerator, lora, lent);
    const FlatLayout layout(decoder->units(), kShards, kAlignment),
        frozen_layout(decoder->frozen_units(), kShards, kAlignment);
    ShardedValues values(layout, frozen_layout, {.sharding = run.sharding}, *decoder, communicator);
    ANNEAL_RETURN_IF_ERROR(values.Initialise(3));
    ANNEAL_RETURN_IF_ERROR(LeaveNothingAtZero(layout, *decoder, values));
    AdamW optimizer(layout, values.part(), {.weight_decay = 0.1}, at::kCPU);
    const BatchAssembler assembler(ReaderOf(rows), /*microbatch_tokens=*/60);
    Whereabouts whereabouts(Clock::Real());
    PhaseTimer timer(Clock::Real(), *accelerator, whereabouts);
    TrainStep step(
        {*decoder, layout, values, optimizer, assembler, communicator, *accelerator, timer},
        {.seed = 9,
         .max_grad_norm = 0.5,
         .reduction = run.reduction,
         .tokens_together = run.tokens_together});
    protocol::RankReport phases;
    for (int64_t i = 1; i <= kSteps; ++i) {
      ANNEAL_ASSIGN_OR_RETURN(const StepOutcome outcome, step.Run(plan.At(i), 1e-2, {}, phases));
      if (communicator.rank() > 0) continue;
      remains.ledger.push_back(FormatLedgerLine(outcome.entry));
      remains.losses.push_back(outcome.entry.loss);
    }
    for (const FlatParts* parts :
         {&values.own(), &optimizer.first_moment(), &optimizer.second_moment()}) {
      for (const at::Tensor& own : *parts) {
        if (!own.defined()) continue;
        ANNEAL_ASSIGN_OR_RETURN(const at::Tensor all, Whole(own, values.part(), communicator));
        if (communicator.rank() == 0) remains.state.push_back(all);
      }
    }
    return absl::OkStatus();
  }
};

TEST_F(SameBitsTest, ForEveryNumberOfRanksScheduleAndNumberOfThreads) {
  for (bool tied : {true, false}) {
    const TinyModel model = WriteTinyModel(dir_, tied);
    const Rows rows =
        RandomRows(model.config, 24, 7);  // three whole steps and a partial one per epoch
    for (bool lora : {true, false}) {
      std::optional<protocol::LoraOptions> method;
      if (lora) method = protocol::LoraOptions{.rank = 4, .alpha = 8, .dropout = 0.2};
      const Remains expected = Train(rows, method, {});
      ASSERT_EQ(expected.ledger.size(), kSteps);
      EXPECT_NE(expected.losses.front(), expected.losses.back());
      for (int world_size : {1, 2, 4}) {
        for (int64_t tokens_together : {int64_t{0}, int64_t{100}, kAllTogether}) {
          for (int threads : {1, 2}) {
            EXPECT_TRUE(Train(rows, method, {world_size, tokens_together, threads}) == expected)
                << (lora ? "LoRA" : "full") << (tied ? ", tied" : "") << " on " << world_size
                << " ranks, " << tokens_together << " tokens together, " << threads << " threads";
          }
        }
      }
    }
  }
}

TEST_F(SameBitsTest, ForEverySharding) {
  for (bool tied : {true, false}) {
    const TinyModel model = WriteTinyModel(dir_, tied);
    const Rows rows = RandomRows(model.config, 24, 7);
    for (bool lora : {true, false}) {
      std::optional<protocol::LoraOptions> method;
      if (lora) method = protocol::LoraOptions{.rank = 4, .alpha = 8, .dropout = 0.2};
      const Remains expected = Train(rows, method, {});
      for (Sharding sharding : {Sharding::kOptimizer, Sharding::kGradients, Sharding::kFull}) {
        for (int world_size : {1, 2, 4}) {
          for (int64_t tokens_together : {int64_t{0}, int64_t{100}, kAllTogether}) {
            EXPECT_TRUE(Train(rows, method,
                              {.world_size = world_size,
                               .tokens_together = tokens_together,
                               .sharding = sharding}) == expected)
                << (lora ? "LoRA" : "full") << (tied ? ", tied" : "") << ", "
                << ShardingName(sharding) << " on " << world_size << " ranks, " << tokens_together
                << " tokens together";
          }
        }
      }
    }
  }
}

// The reference that the fixed order is checked against; and a sign that the test above would
// notice another order.
TEST_F(SameBitsTest, FastReductionAgreesToRounding) {
  const TinyModel model = WriteTinyModel(dir_, /*tied=*/true);
  const Rows rows = RandomRows(model.config, 24, 7);
  const Remains fixed = Train(rows, std::nullopt, {.world_size = 4});
  for (Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
    const Remains fast = Train(
        rows, std::nullopt, {.world_size = 4, .sharding = sharding, .reduction = Reduction::kFast});
    EXPECT_FALSE(fast == fixed);
    // Six updates of size 1e-2 whose direction AdamW takes from quotients of small numbers.
    for (int i = 0; i < kSteps; ++i)
      EXPECT_NEAR(fast.losses[i], fixed.losses[i], 1e-3 * fixed.losses[i]);
  }
}

// ---- Where time goes. ----

// Takes its time for the forward pass of a block.
class SlowDecoder : public testing::FakeDecoder {
 public:
  explicit SlowDecoder(absl::Duration pause) : pause_(pause) {}
  at::Tensor BlockForward(int layer, const at::Tensor& x_TD, const Cell& cell,
                          BlockSaved* saved) override {
    Clock::Real().Sleep(pause_);
    return FakeDecoder::BlockForward(layer, x_TD, cell, saved);
  }

 private:
  const absl::Duration pause_;
};

// Long beside what a step of the FakeDecoder computes, so that where it is booked decides which
// phases are the longer ones.
constexpr absl::Duration kPause = absl::Milliseconds(50);

// The phases of one step on two ranks, by rank.
std::vector<protocol::RankReport> PhasesOfAStep(Sharding sharding,
                                                const std::vector<absl::Duration>& pause_by_rank,
                                                const testing::BeforeCollective& before = nullptr) {
  const Rows rows(8, {.token_ids = {1, 2, 3, 4}, .loss_weight = {0, 1, 1, 1}});
  const StepPlan plan = *StepPlan::Create(std::vector<RowSize>(rows.size(), {4, 3}),
                                          {.batch_size = 8, .logical_shards = 2, .epochs = 1});
  std::vector<protocol::RankReport> phases(2);
  const auto body = [&](Communicator& communicator) -> absl::Status {
    const auto accelerator = MakeCpuAccelerator();
    SlowDecoder decoder(pause_by_rank[communicator.rank()]);
    const FlatLayout layout(decoder.units(), 2, kAlignment),
        frozen_layout(decoder.frozen_units(), 2, kAlignment);
    ShardedValues values(layout, frozen_layout, {.sharding = sharding}, decoder, communicator);
    ANNEAL_RETURN_IF_ERROR(values.Initialise(3));
    AdamW optimizer(layout, values.part(), {}, at::kCPU);
    const BatchAssembler assembler(ReaderOf(rows), kAllTogether);
    Whereabouts whereabouts(Clock::Real());
    PhaseTimer timer(Clock::Real(), *accelerator, whereabouts);
    TrainStep step(
        {decoder, layout, values, optimizer, assembler, communicator, *accelerator, timer},
        {.tokens_together = kAllTogether});
    return step.Run(plan.At(1), 1e-2, {}, phases[communicator.rank()]).status();
  };
  EXPECT_THAT(RunOnRanks(2, body, before), IsOk());
  return phases;
}

double OwnWork(const protocol::RankReport& phases) {
  return phases.fetch_seconds + phases.forward_seconds + phases.backward_seconds +
         phases.update_seconds;
}

TEST(PhasesTest, WaitingForValuesIsReduceWhateverTheSharding) {
  // Rank 1 comes late to whatever makes values whole, and to agreements about it.
  const auto late = [](int rank, absl::string_view tag) -> absl::Status {
    const bool is_about_values =
        absl::StartsWith(tag, "gather ") || absl::StartsWith(tag, "agree on ");
    if (rank == 1 && is_about_values) Clock::Real().Sleep(kPause);
    return absl::OkStatus();
  };
  for (Sharding sharding : {Sharding::kOptimizer, Sharding::kGradients, Sharding::kFull}) {
    const auto phases = PhasesOfAStep(sharding, {absl::Duration(), absl::Duration()}, late);
    EXPECT_GT(phases[0].reduce_seconds, OwnWork(phases[0])) << ShardingName(sharding);
  }
}

TEST(PhasesTest, ASlowRankWorksAndTheOthersWaitWhateverTheSharding) {
  for (Sharding sharding :
       {Sharding::kNone, Sharding::kOptimizer, Sharding::kGradients, Sharding::kFull}) {
    const auto phases = PhasesOfAStep(sharding, {absl::Duration(), kPause});
    EXPECT_GT(phases[0].reduce_seconds, OwnWork(phases[0])) << ShardingName(sharding);
    EXPECT_GT(OwnWork(phases[1]), phases[1].reduce_seconds) << ShardingName(sharding);
  }
}

}  // namespace
}  // namespace anneal::trainer
