#pragma once
// One safetensors file of torch tensors, and the proof that it holds them.

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/safetensors.h"

namespace anneal::trainer {

// kF32 or kBf16; our own files hold nothing else.
DType StoredType(at::ScalarType type);
// The bytes of a contiguous CPU tensor.
absl::Span<const std::byte> BytesOf(const at::Tensor& tensor);

struct NamedTensor {
  std::string name;
  at::Tensor value;  // contiguous, on the CPU, fp32 or bfloat16
};

// The value of a tensor by its name: contiguous, on the CPU, of the type and shape that were
// announced.
using TensorSource = std::function<absl::StatusOr<at::Tensor>(const std::string& name)>;

// Writes the tensors in their order, durably, and reads them back: DATA_LOSS if a byte differs.
// Each is asked for once, so that only one need be in memory.
absl::Status WriteTensorFile(const std::string& path, const std::vector<TensorSpec>& specs,
                             const TensorSource& source);
absl::Status WriteTensorFile(const std::string& path, const std::vector<NamedTensor>& tensors);

// Copies of all tensors of a file, by name; fp32 and bfloat16 only.
absl::StatusOr<std::vector<NamedTensor>> ReadTensorFile(const std::string& path);

}  // namespace anneal::trainer
