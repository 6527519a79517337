#include "coordinator/server/answers.h"

#include <thread>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;

TEST(AnswersTest, AreCalledInOrderBesideTheirGiver) {
  std::vector<int> called;
  absl::Notification given;
  std::thread::id on;
  Answers answers;
  answers.Start();
  // The first waits until the giver has gone on.
  answers.Give({[&] {
                  given.WaitForNotification();
                  on = std::this_thread::get_id();
                  called.push_back(1);
                },
                [&] { called.push_back(2); }});
  answers.Give({[&] { called.push_back(3); }});
  given.Notify();
  answers.Stop();
  EXPECT_THAT(called, ElementsAre(1, 2, 3)) << "what was given before the end is still called";
  EXPECT_NE(on, std::this_thread::get_id());
}

TEST(AnswersTest, WithoutItsThreadTheyAreCalledAtOnce) {
  std::vector<int> called;
  Answers answers;
  answers.Give({[&] { called.push_back(1); }});
  EXPECT_THAT(called, ElementsAre(1));
  answers.Start();
  answers.Stop();
  answers.Give({[&] { called.push_back(2); }});
  EXPECT_THAT(called, ElementsAre(1, 2));
}

}  // namespace
}  // namespace anneal
