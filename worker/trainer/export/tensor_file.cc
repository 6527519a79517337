#include "worker/trainer/export/tensor_file.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

std::string DigestOf(absl::Span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes.data(), bytes.size());
  return hash.HexDigest();
}

}  // namespace

DType StoredType(at::ScalarType type) {
  ANNEAL_CHECK(type == at::kFloat || type == at::kBFloat16);
  return type == at::kFloat ? DType::kF32 : DType::kBf16;
}

absl::Span<const std::byte> BytesOf(const at::Tensor& tensor) {
  ANNEAL_CHECK(tensor.is_cpu() && tensor.is_contiguous());
  return absl::MakeConstSpan(static_cast<const std::byte*>(tensor.const_data_ptr()),
                             tensor.nbytes());
}

absl::Status WriteTensorFile(const std::string& path, const std::vector<TensorSpec>& specs,
                             const TensorSource& source) {
  // transformers and peft refuse files without this entry.
  ANNEAL_ASSIGN_OR_RETURN(const auto writer,
                          SafetensorsWriter::Create(path, specs, {{"format", "pt"}}));
  std::vector<std::string> digests;
  for (const TensorSpec& spec : specs) {
    ANNEAL_ASSIGN_OR_RETURN(const at::Tensor value, source(spec.name));
    ANNEAL_CHECK(StoredType(value.scalar_type()) == spec.dtype && value.sizes() == spec.shape);
    ANNEAL_RETURN_IF_ERROR(writer->Append(spec.name, BytesOf(value)));
    digests.push_back(DigestOf(BytesOf(value)));
  }
  ANNEAL_RETURN_IF_ERROR(writer->Finish());

  ANNEAL_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  for (size_t i = 0; i < specs.size(); ++i) {
    ANNEAL_ASSIGN_OR_RETURN(const TensorView* view, file->Find(specs[i].name));
    if (DigestOf(view->bytes) != digests[i]) {
      return absl::DataLossError(
          absl::StrCat(path, ": tensor \"", specs[i].name, "\" was read back other than written"));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteTensorFile(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const NamedTensor& tensor : tensors) {
    specs.push_back(
        {tensor.name, StoredType(tensor.value.scalar_type()), tensor.value.sizes().vec()});
  }
  size_t next = 0;
  return WriteTensorFile(path, specs, [&](const std::string&) { return tensors[next++].value; });
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
