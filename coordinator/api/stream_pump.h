#pragma once
// Streams that send when something has changed or some time has passed.

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "coordinator/catalog/catalog.h"

namespace anneal {

// A server stream that has no writer of its own. Thread-safe.
class PumpedStream {
 public:
  virtual ~PumpedStream() = default;
  // Sends what is due, if no write is under way.
  virtual void Pump() = 0;
  // The service ends: finish with UNAVAILABLE.
  virtual void Abort() = 0;
};

// Purpose: one thread that pumps every open stream when the catalog has changed, and a few times a
// second. Owner: Coordinator. Thread-safe. Streams pump themselves again after each write, so a
// long backlog does not wait for us.
class StreamPump {
 public:
  explicit StreamPump(const Catalog& catalog);
  ~StreamPump() { Stop(); }

  void Add(std::shared_ptr<PumpedStream> stream);
  void Remove(const PumpedStream* stream);
  // Aborts all streams, also those added later. May be called twice.
  void Stop();

 private:
  void Run();

  const Catalog& catalog_;
  absl::Mutex mu_;
  std::vector<std::shared_ptr<PumpedStream>> streams_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Thread thread_;
};

}  // namespace anneal
