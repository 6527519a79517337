#pragma once
// Rows worked on by several threads and handed back in their order.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"
#include "worker/prepare/line_reader.h"
#include "worker/prepare/row_encoder.h"

namespace anneal::prepare {

// A line on its way to being an encoded row.
struct RowInWork {
  int32_t file = 0;  // index into the task's files, training files first
  int64_t row = 0;   // index among the rows of the file
  Line line;
  EncodedRow encoded;
};

struct Batch {
  std::vector<RowInWork> rows;
};

// Submit and TakeOldest are called by one thread, the owner; `work` runs on the pipeline's own
// threads, so it must be thread-safe. What comes out depends neither on their number nor on their
// speed.
class BatchPipeline {
 public:
  BatchPipeline(int threads, std::function<void(Batch&)> work);
  // Batches not yet begun are dropped.
  ~BatchPipeline();

  void Submit(Batch batch);
  // Waits for the batch submitted first of those not yet taken; there must be one.
  Batch TakeOldest();
  size_t in_flight() const { return order_.size(); }

 private:
  struct Item {
    Batch batch;
    bool done = false;
  };
  void Run();

  const std::function<void(Batch&)> work_;
  // Owner's thread only.
  std::deque<std::shared_ptr<Item>> order_;

  absl::Mutex mu_;
  std::deque<std::shared_ptr<Item>> waiting_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;

  std::vector<Thread> threads_;  // last: they run on the members above
};

}  // namespace anneal::prepare
