#include "coordinator/server/answers.h"

#include <set>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;

TEST(AnswersTest, AreCalledBesideTheirGiver) {
  absl::Mutex mu;
  std::multiset<int> called;
  std::thread::id on;
  const auto call = [&](int number) {
    return [&, number] {
      absl::MutexLock lock(&mu);
      called.insert(number);
    };
  };
  absl::Notification given;
  Answers answers;
  answers.Start();
  // The first waits until the giver has gone on.
  answers.Give({[&] {
                  given.WaitForNotification();
                  on = std::this_thread::get_id();
                },
                call(1)});
  answers.Give({call(2)});
  given.Notify();
  answers.Stop();
  EXPECT_THAT(called, ElementsAre(1, 2)) << "what was given before the end is still called";
  EXPECT_NE(on, std::this_thread::get_id());
}

TEST(AnswersTest, OneThatTakesLongHoldsUpOnlyThoseNextToIt) {
  absl::Notification last;
  Answers answers;
  answers.Start();
  std::vector<Answers::Answer> many(100, [] {});
  many.front() = [&] { last.WaitForNotification(); };
  many.back() = [&] { last.Notify(); };
  answers.Give(std::move(many));
  answers.Stop();
}

TEST(AnswersTest, WithoutItsThreadsTheyAreCalledAtOnceAndInOrder) {
  std::vector<int> called;
  Answers answers;
  answers.Give({[&] { called.push_back(1); }, [&] { called.push_back(2); }});
  EXPECT_THAT(called, ElementsAre(1, 2));
  answers.Start();
  answers.Stop();
  answers.Give({[&] { called.push_back(3); }});
  EXPECT_THAT(called, ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace anneal
