#pragma once
// Named, owned, joined threads, and a gate that lets old work finish before its owner dies.

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace anneal {

// Joins in its destructor; the body must have been told to stop by then. The name (15 characters at
// most) shows in top and gdb.
class Thread {
 public:
  Thread() = default;
  Thread(const std::string& name, std::function<void()> body);
  Thread(Thread&&) = default;
  Thread& operator=(Thread&& other);
  ~Thread() { Join(); }

  // Returns when the body has returned. May be called twice. Not from the thread itself.
  void Join();
  bool joinable() const { return thread_.joinable(); }

 private:
  std::thread thread_;
};

// Refuses new work once closed and waits for work under way. Thread-safe.
class Gate {
 public:
  // Held while work is done; false means the gate is closed and the work must not start.
  class Pass {
   public:
    explicit Pass(Gate& gate) : gate_(gate.Enter() ? &gate : nullptr) {}
    ~Pass() {
      if (gate_ != nullptr) gate_->Leave();
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    explicit operator bool() const { return gate_ != nullptr; }

   private:
    Gate* gate_;
  };

  // Returns when no pass is held; from the call on none is given. May be called twice.
  void CloseAndWait();

 private:
  bool Enter();
  void Leave();

  absl::Mutex mu_;
  int inside_ ABSL_GUARDED_BY(mu_) = 0;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace anneal
