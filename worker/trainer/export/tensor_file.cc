#include "worker/trainer/export/tensor_file.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::trainer {

DType StoredType(at::ScalarType type) {
  ANNEAL_CHECK(type == at::kFloat || type == at::kBFloat16);
  return type == at::kFloat ? DType::kF32 : DType::kBf16;
}

absl::Span<const std::byte> BytesOf(const at::Tensor& tensor) {
  ANNEAL_CHECK(tensor.is_cpu() && tensor.is_contiguous());
  return absl::MakeConstSpan(static_cast<const std::byte*>(tensor.const_data_ptr()),
                             tensor.nbytes());
}

absl::Status WriteTensorFile(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const NamedTensor& tensor : tensors) {
    specs.push_back(
        {tensor.name, StoredType(tensor.value.scalar_type()), tensor.value.sizes().vec()});
  }
  // transformers and peft refuse files without this entry.
  ANNEAL_ASSIGN_OR_RETURN(const auto writer,
                          SafetensorsWriter::Create(path, specs, {{"format", "pt"}}));
  for (const NamedTensor& tensor : tensors) {
    ANNEAL_RETURN_IF_ERROR(writer->Append(tensor.name, BytesOf(tensor.value)));
  }
  ANNEAL_RETURN_IF_ERROR(writer->Finish());

  ANNEAL_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  for (const NamedTensor& tensor : tensors) {
    ANNEAL_ASSIGN_OR_RETURN(const TensorView* view, file->Find(tensor.name));
    const absl::Span<const std::byte> expected = BytesOf(tensor.value);
    if (view->bytes.size() != expected.size() ||
        std::memcmp(view->bytes.data(), expected.data(), expected.size()) != 0) {
      return absl::DataLossError(
          absl::StrCat(path, ": tensor \"", tensor.name, "\" was read back other than written"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<NamedTensor>> ReadTensorFile(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  std::vector<NamedTensor> out;
  for (const auto& [name, view] : file->tensors()) {
    if (view.dtype != DType::kF32 && view.dtype != DType::kBf16) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor \"", name, "\" holds ", DTypeName(view.dtype), "; supported: F32, BF16"));
    }
    at::Tensor value =
        at::empty(view.shape, view.dtype == DType::kF32 ? at::kFloat : at::kBFloat16);
    std::memcpy(value.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
    out.push_back({name, value});
  }
  return out;
}

}  // namespace anneal::trainer
