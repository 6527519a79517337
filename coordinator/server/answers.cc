#include "coordinator/server/answers.h"

#include <iterator>

namespace anneal {

void Answers::Start() {
  {
    absl::MutexLock lock(&mu_);
    running_ = true;
  }
  thread_ = Thread("answers", [this] { Run(); });
}

void Answers::Give(std::vector<Answer> answers) {
  if (answers.empty()) return;
  {
    absl::MutexLock lock(&mu_);
    if (running_) {
      std::move(answers.begin(), answers.end(), std::back_inserter(waiting_));
      return;
    }
  }
  for (const Answer& answer : answers) answer();
}

void Answers::Stop() {
  {
    absl::MutexLock lock(&mu_);
    running_ = false;
  }
  thread_.Join();
}

void Answers::Run() {
  const auto has_work = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return !running_ || !waiting_.empty();
  };
  while (true) {
    std::vector<Answer> answers;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&has_work));
      if (waiting_.empty()) return;
      answers.swap(waiting_);
    }
    for (const Answer& answer : answers) answer();
  }
}

}  // namespace anneal
