#include "worker/examiner/slot_lender.h"

#include "gtest/gtest.h"

namespace anneal {
namespace {

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;

std::vector<TrainerSlot> Slots() { return {{"cpu0", kCpu}, {"cpu1", kCpu}, {"GPU-7", kGpu}}; }

TEST(SlotLenderTest, LendsEachFreeSlotOnce) {
  SlotLender lender(Slots());
  EXPECT_TRUE(lender.Has(kGpu));
  lender.SetBusy({"cpu0"});
  auto loan = lender.Borrow(kCpu);
  ASSERT_NE(loan, nullptr);
  EXPECT_EQ(loan->slot().id, "cpu1");
  EXPECT_FALSE(loan->is_over());
  EXPECT_EQ(lender.Borrow(kCpu), nullptr);
  loan.reset();
  EXPECT_NE(lender.Borrow(kCpu), nullptr);
}

TEST(SlotLenderTest, ATaskThatComesEndsTheLoanAndNoOther) {
  SlotLender lender(Slots());
  auto cpu = lender.Borrow(kCpu);
  const auto gpu = lender.Borrow(kGpu);
  lender.SetBusy({"cpu0"});
  EXPECT_TRUE(cpu->is_over());
  EXPECT_FALSE(gpu->is_over());
  lender.SetBusy({});
  EXPECT_TRUE(cpu->is_over()) << "the slot may have been used meanwhile";
  cpu.reset();
  cpu = lender.Borrow(kCpu);
  EXPECT_FALSE(cpu->is_over());
}

TEST(SlotLenderTest, WhatAWorkerHasNotIsNotLent) {
  SlotLender lender({{"cpu0", kCpu}});
  EXPECT_FALSE(lender.Has(kGpu));
  EXPECT_EQ(lender.Borrow(kGpu), nullptr);
}

}  // namespace
}  // namespace anneal
