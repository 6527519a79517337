// Tells ThreadSanitizer about Abseil's mutexes and notifications. Linked into every program of the
// tsan preset, and nowhere else.
//
// Debian's Abseil is built without ThreadSanitizer, which therefore sees none of the order that
// absl::Mutex makes and takes every guarded access for a race. The definitions below stand before
// the library's, say what happens, and call them. gRPC's locks are Abseil's, so they become visible
// too.
//
// An edge runs from each release of a mutex to the acquisitions after it. Await gives the mutex up
// and takes it again. Conditions are evaluated inside the library with the mutex held, by the
// waiting thread or by one that unlocks: each evaluation is an acquisition and a release, and comes
// before the return of the Await.

#include <dlfcn.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}

namespace absl {
ABSL_NAMESPACE_BEGIN
namespace {

// The library's own definition of a mangled name.
template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

#define ANNEAL_REAL(type, name) static auto* const real = Real<type>("_ZN4absl7debian3" name)
#define ANNEAL_REAL_CONST(type, name) static auto* const real = Real<type>("_ZNK4absl7debian3" name)

// The mutex on which this thread is inside the library, where it may evaluate conditions.
thread_local Mutex* t_mutex = nullptr;

// Inside Unlock: gives the mutex up.
class UnlockScope {
 public:
  explicit UnlockScope(Mutex* mutex) : outer_(t_mutex) {
    t_mutex = mutex;
    __tsan_release(mutex);
  }
  ~UnlockScope() { t_mutex = outer_; }

 private:
  Mutex* const outer_;
};

// Inside Await and its like: gives the mutex up and has it again.
class WaitScope {
 public:
  WaitScope(Mutex* mutex, const Condition* condition)
      : unlock_(mutex), mutex_(mutex), condition_(condition) {}
  ~WaitScope() {
    __tsan_acquire(mutex_);
    if (condition_ != nullptr) __tsan_acquire(const_cast<Condition*>(condition_));
  }

 private:
  const UnlockScope unlock_;
  Mutex* const mutex_;
  const Condition* const condition_;
};

}  // namespace

void Mutex::Lock() {
  ANNEAL_REAL(void(Mutex*), "5Mutex4LockEv");
  real(this);
  __tsan_acquire(this);
}
void Mutex::Unlock() {
  ANNEAL_REAL(void(Mutex*), "5Mutex6UnlockEv");
  const UnlockScope scope(this);
  real(this);
}
bool Mutex::TryLock() {
  ANNEAL_REAL(bool(Mutex*), "5Mutex7TryLockEv");
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}
void Mutex::ReaderLock() {
  ANNEAL_REAL(void(Mutex*), "5Mutex10ReaderLockEv");
  real(this);
  __tsan_acquire(this);
}
void Mutex::ReaderUnlock() {
  ANNEAL_REAL(void(Mutex*), "5Mutex12ReaderUnlockEv");
  const UnlockScope scope(this);
  real(this);
}

void Mutex::Await(const Condition& condition) {
  ANNEAL_REAL(void(Mutex*, const Condition&), "5Mutex5AwaitERKNS0_9ConditionE");
  const WaitScope scope(this, &condition);
  real(this, condition);
}
bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  ANNEAL_REAL(bool(Mutex*, const Condition&, Duration),
              "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const WaitScope scope(this, &condition);
  return real(this, condition, timeout);
}
bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  ANNEAL_REAL(bool(Mutex*, const Condition&, Time),
              "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const WaitScope scope(this, &condition);
  return real(this, condition, deadline);
}
void Mutex::LockWhen(const Condition& condition) {
  ANNEAL_REAL(void(Mutex*, const Condition&), "5Mutex8LockWhenERKNS0_9ConditionE");
  const WaitScope scope(this, &condition);
  real(this, condition);
}
bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  ANNEAL_REAL(bool(Mutex*, const Condition&, Duration),
              "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const WaitScope scope(this, &condition);
  return real(this, condition, timeout);
}
bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  ANNEAL_REAL(bool(Mutex*, const Condition&, Time),
              "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const WaitScope scope(this, &condition);
  return real(this, condition, deadline);
}

bool Condition::Eval() const {
  ANNEAL_REAL_CONST(bool(const Condition*), "9Condition4EvalEv");
  if (t_mutex != nullptr) __tsan_acquire(t_mutex);
  const bool holds = real(this);
  if (t_mutex != nullptr) __tsan_release(t_mutex);
  __tsan_release(const_cast<Condition*>(this));
  return holds;
}

void CondVar::Wait(Mutex* mutex) {
  ANNEAL_REAL(void(CondVar*, Mutex*), "7CondVar4WaitEPNS0_5MutexE");
  const WaitScope scope(mutex, nullptr);
  real(this, mutex);
}
bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  ANNEAL_REAL(bool(CondVar*, Mutex*, Duration),
              "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  const WaitScope scope(mutex, nullptr);
  return real(this, mutex, timeout);
}
bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  ANNEAL_REAL(bool(CondVar*, Mutex*, Time), "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  const WaitScope scope(mutex, nullptr);
  return real(this, mutex, deadline);
}

// A notification that has come is seen by an atomic read inside the library.
void Notification::Notify() {
  ANNEAL_REAL(void(Notification*), "12Notification6NotifyEv");
  __tsan_release(this);
  real(this);
}
void Notification::WaitForNotification() const {
  ANNEAL_REAL_CONST(void(const Notification*), "12Notification19WaitForNotificationEv");
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  ANNEAL_REAL_CONST(bool(const Notification*, Duration),
                    "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = real(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}
bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  ANNEAL_REAL_CONST(bool(const Notification*, Time),
                    "12Notification31WaitForNotificationWithDeadlineENS0_4TimeE");
  const bool notified = real(this, deadline);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
