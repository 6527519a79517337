#include "coordinator/server/answers.h"

#include <iterator>

namespace anneal {
namespace {

constexpr int kThreads = 4;

}  // namespace

void Answers::Start() {
  {
    absl::MutexLock lock(&mu_);
    running_ = true;
  }
  for (int i = 0; i < kThreads; ++i) threads_.emplace_back("answers", [this] { Run(); });
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
  threads_.clear();
}

void Answers::Run() {
  const auto has_work = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return !running_ || !waiting_.empty();
  };
  while (true) {
    Answer answer;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&has_work));
      if (waiting_.empty()) return;
      answer = std::move(waiting_.front());
      waiting_.pop_front();
    }
    answer();
  }
}

}  // namespace anneal
