#pragma once
// What ranks say to each other. Implementations: Gloo (CPU), Nccl (CUDA), InProcess (threads of one
// process, for tests).

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace anneal::trainer {

// Every call blocks until this rank's part is done, has the communicator's timeout, and a tag that
// names it in errors
// ("reduce layers.7 step 12"). All ranks make the same calls in the same order. After one fails the
// communicator is broken for good: every later call fails, and a new one is made in a new
// generation. Failures carry the reason kCollectiveFailed. Tensors are contiguous, on the
// communicator's device, with the same number of elements on all ranks. Guarded by its caller,
// except Abort.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // `in` and `out` hold world_size equal parts; part r of `in` goes to rank r, part r of `out`
  // comes from rank r.
  virtual absl::Status AllToAll(const at::Tensor& in, at::Tensor& out, absl::string_view tag) = 0;
  // `out` holds world_size times the elements of `in`, in rank order. `in` may be this rank's part
  // of `out`.
  virtual absl::Status AllGather(const at::Tensor& in, at::Tensor& out, absl::string_view tag) = 0;
  // Sum over ranks in the backend's own order: fast, but the bits depend on the world size.
  virtual absl::Status AllReduceSum(at::Tensor& inout, absl::string_view tag) = 0;
  // `out` gets this rank's part of the sum over ranks of `in` (world_size equal parts), in the
  // backend's own order. `out` may be that part of `in`.
  virtual absl::Status ReduceScatterSum(const at::Tensor& in, at::Tensor& out,
                                        absl::string_view tag) = 0;
  virtual absl::Status Broadcast(at::Tensor& inout, int root, absl::string_view tag) = 0;
  virtual absl::Status Barrier(absl::string_view tag) = 0;

  // Makes calls under way, here and (as far as the backend can) elsewhere, fail soon. Thread-safe.
  virtual void Abort(absl::string_view why) = 0;
};

}  // namespace anneal::trainer
