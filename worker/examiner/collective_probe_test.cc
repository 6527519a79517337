#include "worker/examiner/collective_probe.h"

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "gmock/gmock.h"
#include "worker/examiner/link_probe.h"
#include "worker/examiner/testing/fake_trainer.h"

namespace anneal {
namespace {

using internal::ExaminationResult;
using ::testing::AllOf;
using testing::FakeTrainer;
using testing::GoodTrainer;
using ::testing::HasSubstr;

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;
constexpr char kHere[] = "127.0.0.1";
const std::string kToken(32, 't');

// Two workers with a slot each, of which the first measures.
class CollectiveProbeTest : public ::testing::Test {
 protected:
  struct Worker {
    Worker(const std::string& name, const TrainerSlot& slot, absl::Duration patience)
        : lender({slot}), probe({name, kHere, patience}, lender, Clock::Real()) {}
    SlotLender lender;
    CollectiveProbe probe;
  };

  std::optional<ExaminationResult::Collective> Measure(
      Worker& here, Worker& there, v1::ResourceSpec::Accelerator accelerator = kCpu,
      const std::function<bool()>& cancelled = [] { return false; }) {
    auto listener = LinkListener::Start(kHere, kToken, &there.probe);
    EXPECT_THAT(listener, testing::IsOk());
    auto found = MeasureCollective(kHere, (*listener)->address(), kToken, accelerator, here.probe,
                                   cancelled);
    EXPECT_THAT(found, testing::IsOk());
    return *found;
  }

  const absl::Duration patience_ = absl::Seconds(60);
  const FakeTrainer good_{GoodTrainer()};
  Worker w1_{"w1", good_.Slot(), patience_}, w2_{"w2", good_.Slot(), patience_};
};

TEST_F(CollectiveProbeTest, BothDirectionsAreMeasured) {
  const auto found = Measure(w1_, w2_);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->error() + found->skipped(), "");
  EXPECT_EQ(found->accelerator(), kCpu);
  EXPECT_EQ(found->library(), "Fake");
  EXPECT_EQ(found->there_bytes_per_second(), 2000) << "what reaches rank 1";
  EXPECT_EQ(found->back_bytes_per_second(), 1000);
  EXPECT_EQ(found->all_to_all_there_bytes_per_second(), 1000);
  EXPECT_EQ(found->all_to_all_back_bytes_per_second(), 500);
  EXPECT_EQ(found->all_reduce_bytes_per_second(), 250);
  EXPECT_EQ(found->latency_seconds(), 0.5);
  EXPECT_NE(w1_.lender.Borrow(kCpu), nullptr) << "the slot is free again";
}

TEST_F(CollectiveProbeTest, WhereNoSlotIsFreeItIsSkipped) {
  w2_.lender.SetBusy({"slot"});
  EXPECT_EQ(Measure(w1_, w2_)->skipped(), "busy: no CPU slot of w2 is free");
  w2_.lender.SetBusy({});
  w1_.lender.SetBusy({"slot"});
  EXPECT_EQ(Measure(w1_, w2_)->skipped(), "busy: no CPU slot of w1 is free");
  w1_.lender.SetBusy({});
  EXPECT_EQ(Measure(w1_, w2_)->skipped(), "");
}

TEST_F(CollectiveProbeTest, AKindOfSlotThatTheOtherHasNotIsNotMeasured) {
  Worker gpu("w3", good_.Slot(kGpu), patience_);
  EXPECT_FALSE(Measure(w1_, gpu).has_value());
  EXPECT_FALSE(Measure(gpu, w1_, kGpu).has_value());
}

TEST_F(CollectiveProbeTest, TheTrainerThatFailsIsNamed) {
  const FakeTrainer bad("echo anneal-trainer bench-collective: no way >&2\nexit 1\n");
  Worker w3("w3", bad.Slot(), patience_);
  EXPECT_THAT(Measure(w1_, w3)->error(), HasSubstr("w3: anneal-trainer bench-collective: no way"));
  EXPECT_THAT(Measure(w3, w1_)->error(), HasSubstr("w3: anneal-trainer bench-collective: no way"));
  // As when rank 1 does not come: it fails once rank 0 has. The other way round rank 0 is broken
  // off, and has nothing to say.
  const FakeTrainer alone(
      "echo $$ >$0.pid\necho rendezvous 127.0.0.1:7\necho timed out >&2\nexit 1\n");
  const FakeTrainer late(
      absl::StrCat("while kill -0 $(cat ", alone.path(),
                   ".pid) 2>&-; do sleep 0.01; done\necho no way >&2\nexit 1\n"));
  Worker w4("w4", alone.Slot(), patience_), w5("w5", late.Slot(), patience_);
  EXPECT_THAT(Measure(w4, w5)->error(), AllOf(HasSubstr("w4: timed out"), HasSubstr("w5: no way")));
}

TEST_F(CollectiveProbeTest, ATaskThatNeedsTheSlotEndsTheMeasurement) {
  // Starts the task once it runs itself.
  const FakeTrainer slow(
      "case \"$*\" in *'--rank 0'*) echo rendezvous 127.0.0.1:7;; esac\n"
      "touch $0.runs\nexec sleep 1000\n");
  const auto runs = [&slow] { return std::ifstream(slow.path() + ".runs").good(); };
  {
    Worker busy("w3", slow.Slot(), patience_);
    const auto found = Measure(busy, w2_, kCpu, [&] {
      if (runs()) busy.lender.SetBusy({"slot"});
      return false;
    });
    EXPECT_THAT(found->skipped(), HasSubstr("a task needs the slot"));
  }
  std::remove((slow.path() + ".runs").c_str());
  {
    // The other side's: rank 0 does not wait for one that will not come.
    const FakeTrainer waits("echo rendezvous 127.0.0.1:7\nexec sleep 1000\n");
    Worker first("w3", waits.Slot(), patience_), second("w4", slow.Slot(), patience_);
    const auto found = Measure(first, second, kCpu, [&] {
      if (runs()) second.lender.SetBusy({"slot"});
      return false;
    });
    EXPECT_THAT(found->skipped(), HasSubstr("a task needs the slot"));
  }
}

TEST_F(CollectiveProbeTest, ATrainerThatHangsIsGivenUp) {
  const FakeTrainer hangs("exec sleep 1000\n");
  Worker w3("w3", hangs.Slot(), absl::Milliseconds(50));
  EXPECT_THAT(Measure(w3, w2_)->error(), HasSubstr("bench-collective has not ended in time"));
}

}  // namespace
}  // namespace anneal
