#pragma once
// The threads that tell callers what the control loop has decided.

#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"

namespace anneal {

// Purpose: calls replies, begun in the order in which they were decided, while the loop takes its
// next turn: to write an answer and send it takes longer than to decide on it. By several threads,
// because whoever sends an answer over a connection also sends what the others have for it
// meanwhile; with one, each answer is a packet of its own, and half the answers come late. Owner:
// ControlLoop. Thread-safe.
class Answers {
 public:
  using Answer = std::function<void()>;

  Answers() = default;
  // Ends as Stop does.
  ~Answers() { Stop(); }

  void Start();
  // Given all at once, once a turn. Before Start and after Stop they are called right here.
  void Give(std::vector<Answer> answers);
  // Returns when all that was given has been called. May be called twice.
  void Stop();

 private:
  void Run();

  absl::Mutex mu_;
  std::deque<Answer> waiting_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Thread> threads_;
};

}  // namespace anneal
