#pragma once
// Reading and writing the safetensors format (github.com/huggingface/safetensors, README "Format")
// without torch.
//
// A file is: header size (u64, little-endian), header (JSON object: name -> {dtype, shape,
// data_offsets}, and an optional
// "__metadata__" of strings), then the tensors' bytes with no hole between them. The reader trusts
// nothing: sizes, offsets, shapes and names are checked before a byte of data is handed out.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace anneal {

enum class DType { kBool, kU8, kI8, kU16, kI16, kF16, kBf16, kU32, kI32, kF32, kU64, kI64, kF64 };

// The format's name ("BF16") and the size of one element.
absl::string_view DTypeName(DType dtype);
size_t DTypeBytes(DType dtype);

template <typename T>
constexpr DType DTypeOf();
template <>
constexpr DType DTypeOf<uint8_t>() {
  return DType::kU8;
}
template <>
constexpr DType DTypeOf<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType DTypeOf<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType DTypeOf<float>() {
  return DType::kF32;
}
template <>
constexpr DType DTypeOf<double>() {
  return DType::kF64;
}

// "[3, 64]", as errors show it.
std::string ShapeToString(absl::Span<const int64_t> shape);

// What a tensor is, without its bytes.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// A tensor in a mapped file. The format promises no alignment of `bytes`; copy, or use Values.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> bytes;

  int64_t elements() const { return static_cast<int64_t>(bytes.size() / DTypeBytes(dtype)); }
  // The elements in place. INVALID_ARGUMENT if the type is another or the bytes are not aligned for
  // it.
  template <typename T>
  absl::StatusOr<absl::Span<const T>> Values() const {
    absl::Status status = CheckReadableAs(DTypeOf<T>(), alignof(T));
    if (!status.ok()) return status;
    return absl::Span<const T>(reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T));
  }

 private:
  absl::Status CheckReadableAs(DType wanted, size_t alignment) const;
};

// One file, mapped read-only for the object's life. Immutable, so thread-safe. Truncating a mapped
// file kills the reader (SIGBUS), which is why files are published by rename and never changed in
// place.
class SafetensorsFile {
 public:
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference implementation

  // Errors name the file and the tensor. NOT_FOUND if it cannot be opened, INVALID_ARGUMENT if it
  // breaks a rule.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // NOT_FOUND names file and tensor. The pointer lives as long as the file.
  absl::StatusOr<const TensorView*> Find(absl::string_view name) const;

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}
  absl::Status Map();
  absl::Status ParseHeader();

  const std::string path_;
  absl::Span<const std::byte> mapped_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The bytes in front of the data of a file that holds exactly `tensors`, packed, in this order: for
// writers with a file of their own.
std::string SafetensorsHeader(const std::vector<TensorSpec>& tensors,
                              const std::map<std::string, std::string>& metadata);

// Writes one file: header first, then bytes as they come, so that memory stays small. The order is
// the caller's; the same calls give the same bytes. The file is durable after Finish and unusable
// without it; publish it by rename. Guarded by its caller.
class SafetensorsWriter {
 public:
  // `alignment` (a power of two) is where each tensor starts. The format allows no holes, so gaps
  // are filled by U8 tensors named "__padding_N__"; 1 means packed, as model files are. The data as
  // a whole always begins at a multiple of 8.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<TensorSpec>& tensors,
      const std::map<std::string, std::string>& metadata, size_t alignment = 1);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of tensor `name`. Tensors come in the order given to Create; several calls may
  // fill one.
  absl::Status Append(absl::string_view name, absl::Span<const std::byte> bytes);
  template <typename T>
  absl::Status Append(absl::string_view name, absl::Span<const T> values) {
    return Append(name,
                  absl::Span<const std::byte>(reinterpret_cast<const std::byte*>(values.data()),
                                              values.size() * sizeof(T)));
  }
  // Flushes to disk and closes. FAILED_PRECONDITION if a tensor is incomplete.
  absl::Status Finish();

 private:
  struct Part {
    std::string name;  // empty: padding
    uint64_t left = 0;
  };
  SafetensorsWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status WriteAll(const void* data, size_t bytes);
  absl::Status WritePadding();

  const std::string path_;
  int fd_;
  std::vector<Part> parts_;
  size_t current_ = 0;  // first part that is not complete
};

}  // namespace anneal
