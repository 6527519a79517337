#include "common/format/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/format/json.h"

namespace anneal {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the format is little-endian and read in place");

struct DTypeRow {
  DType dtype;
  absl::string_view name;
  size_t bytes;
};
constexpr DTypeRow kDTypes[] = {
    {DType::kBool, "BOOL", 1}, {DType::kU8, "U8", 1},   {DType::kI8, "I8", 1},
    {DType::kU16, "U16", 2},   {DType::kI16, "I16", 2}, {DType::kF16, "F16", 2},
    {DType::kBf16, "BF16", 2}, {DType::kU32, "U32", 4}, {DType::kI32, "I32", 4},
    {DType::kF32, "F32", 4},   {DType::kU64, "U64", 8}, {DType::kI64, "I64", 8},
    {DType::kF64, "F64", 8},
};
constexpr absl::string_view kMetadataKey = "__metadata__";
constexpr uint64_t kLengthBytes = 8;
constexpr int kHeaderDepth = 3;  // { tensor: { "shape": [ ] } }

const DTypeRow& RowOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

// Bytes of a tensor of this type and shape, or nothing on overflow.
std::optional<uint64_t> ByteSize(DType dtype, absl::Span<const int64_t> shape) {
  uint64_t bytes = DTypeBytes(dtype);
  for (int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes))
      return std::nullopt;
  }
  return bytes;
}

struct HeaderEntry {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  uint64_t begin, end;
};

absl::StatusOr<std::vector<uint64_t>> ParseUnsignedList(const Json& json, absl::string_view field) {
  std::vector<uint64_t> out;
  if (!json.is_array()) return absl::InvalidArgumentError(absl::StrCat(field, " is not a list"));
  for (const Json& item : json) {
    if (!item.is_number_unsigned()) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " holds ", DumpJson(item), ", not a whole number >= 0"));
    }
    out.push_back(item.get<uint64_t>());
  }
  return out;
}

absl::StatusOr<HeaderEntry> ParseEntry(const std::string& name, const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("its description is not an object");
  for (const auto& [key, value] : json.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return absl::InvalidArgumentError(absl::StrCat("unknown key \"", key, "\""));
    }
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!json.contains(key)) return absl::InvalidArgumentError(absl::StrCat(key, " is missing"));
  }
  HeaderEntry entry;
  entry.name = name;
  const Json& dtype = json["dtype"];
  const std::optional<DType> known =
      dtype.is_string() ? DTypeFromName(dtype.get_ref<const std::string&>()) : std::nullopt;
  if (!known)
    return absl::InvalidArgumentError(absl::StrCat("dtype ", DumpJson(dtype), " is not supported"));
  entry.dtype = *known;
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<uint64_t> shape,
                          ParseUnsignedList(json["shape"], "shape"));
  for (uint64_t extent : shape) {
    if (extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape holds ", extent, ", which is too large"));
    }
    entry.shape.push_back(static_cast<int64_t>(extent));
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets,
                          ParseUnsignedList(json["data_offsets"], "data_offsets"));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return absl::InvalidArgumentError(
        absl::StrCat("data_offsets ", DumpJson(json["data_offsets"]), " is not [begin, end]"));
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  const std::optional<uint64_t> bytes = ByteSize(entry.dtype, entry.shape);
  if (!bytes || *bytes != entry.end - entry.begin) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", ShapeToString(entry.shape), " of ", DTypeName(entry.dtype),
                     bytes ? absl::StrCat(" takes ", *bytes, " bytes") : " overflows",
                     " but data_offsets span ", entry.end - entry.begin));
  }
  return entry;
}

absl::Status ParseMetadata(const Json& json, std::map<std::string, std::string>& out) {
  if (!json.is_object()) return absl::InvalidArgumentError("__metadata__ is not an object");
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string())
      return absl::InvalidArgumentError(absl::StrCat("__metadata__.", key, " is not a string"));
    out[key] = value.get<std::string>();
  }
  return absl::OkStatus();
}

// Where everything goes in a file to be written.
struct FileLayout {
  std::string header;                                   // with its length
  std::vector<std::pair<std::string, uint64_t>> parts;  // names and sizes; without a name: padding
};

FileLayout LayOut(const std::vector<TensorSpec>& tensors,
                  const std::map<std::string, std::string>& metadata, size_t alignment) {
  ANNEAL_CHECK(alignment > 0 && (alignment & (alignment - 1)) == 0);
  Json header = Json::object();
  if (!metadata.empty()) header[std::string(kMetadataKey)] = metadata;
  FileLayout layout;
  uint64_t offset = 0;
  auto add = [&](absl::string_view part, const TensorSpec& spec) {
    const std::optional<uint64_t> bytes = ByteSize(spec.dtype, spec.shape);
    ANNEAL_CHECK(bytes.has_value() && !header.contains(spec.name) && spec.name != kMetadataKey);
    header[spec.name] = {{"dtype", std::string(DTypeName(spec.dtype))},
                         {"shape", spec.shape},
                         {"data_offsets", {offset, offset + *bytes}}};
    layout.parts.emplace_back(part, *bytes);
    offset += *bytes;
  };
  for (const TensorSpec& spec : tensors) {
    if (const uint64_t gap = -offset % alignment; gap != 0) {
      add("", {absl::StrCat("__padding_", layout.parts.size(), "__"),
               DType::kU8,
               {static_cast<int64_t>(gap)}});
    }
    add(spec.name, spec);
  }
  std::string text = DumpJson(header);
  text.append(-(text.size() + kLengthBytes) % std::max<size_t>(alignment, 8), ' ');
  const uint64_t length = text.size();
  layout.header.assign(reinterpret_cast<const char*>(&length), sizeof(length));
  layout.header += text;
  return layout;
}

}  // namespace

absl::string_view DTypeName(DType dtype) { return RowOf(dtype).name; }
size_t DTypeBytes(DType dtype) { return RowOf(dtype).bytes; }

std::string ShapeToString(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status TensorView::CheckReadableAs(DType wanted, size_t alignment) const {
  if (dtype != wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("holds ", DTypeName(dtype), ", not ", DTypeName(wanted)));
  }
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("does not start at a multiple of ", alignment, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path));
  ANNEAL_RETURN_IF_ERROR(file->Map());
  if (absl::Status status = file->ParseHeader(); !status.ok()) return Annotate(status, path);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapped_.data() != nullptr) ::munmap(const_cast<std::byte*>(mapped_.data()), mapped_.size());
}

absl::Status SafetensorsFile::Map() {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path_));
  struct stat info = {};
  absl::Status status;
  if (::fstat(fd, &info) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path_));
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(absl::StrCat(path_, " is not a regular file"));
  } else if (static_cast<uint64_t>(info.st_size) < kLengthBytes) {
    status = absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", info.st_size, " bytes hold no safetensors header"));
  } else {
    void* data = ::mmap(nullptr, info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      status = absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", path_));
    } else {
      mapped_ = absl::MakeConstSpan(static_cast<const std::byte*>(data),
                                    static_cast<size_t>(info.st_size));
    }
  }
  ::close(fd);
  return status;
}

absl::Status SafetensorsFile::ParseHeader() {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapped_.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", header_bytes, " bytes is over the limit of ", kMaxHeaderBytes));
  }
  if (header_bytes > mapped_.size() - kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat("header of ", header_bytes,
                                                   " bytes in a file of ", mapped_.size(),
                                                   ": the file is cut short"));
  }
  const absl::string_view text(reinterpret_cast<const char*>(mapped_.data()) + kLengthBytes,
                               header_bytes);
  if (!absl::StartsWith(text, "{"))
    return absl::InvalidArgumentError("the header does not begin with '{'");
  ANNEAL_ASSIGN_OR_RETURN(const Json header, ParseJson(text, {.max_bytes = kMaxHeaderBytes,
                                                              .max_depth = kHeaderDepth}));

  std::vector<HeaderEntry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadataKey) {
      ANNEAL_RETURN_IF_ERROR(ParseMetadata(json, metadata_));
      continue;
    }
    absl::StatusOr<HeaderEntry> entry = ParseEntry(name, json);
    if (!entry.ok()) return Annotate(entry.status(), absl::StrCat("tensor \"", name, "\""));
    entries.push_back(*std::move(entry));
  }

  // In order of offsets the tensors must tile the data exactly: no overlap, no hole, nothing after
  // the last.
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const absl::Span<const std::byte> data = mapped_.subspan(kLengthBytes + header_bytes);
  uint64_t expected = 0;
  for (HeaderEntry& entry : entries) {
    if (entry.begin != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", entry.name, "\" begins at ", entry.begin, " where ", expected,
                       " was expected: ", entry.begin < expected ? "an overlap" : "a hole"));
    }
    if (entry.end > data.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", entry.name, "\" ends at ",
                                                     entry.end, " of ", data.size(),
                                                     " data bytes: the file is cut short"));
    }
    expected = entry.end;
    tensors_[entry.name] = {.dtype = entry.dtype,
                            .shape = std::move(entry.shape),
                            .bytes = data.subspan(entry.begin, entry.end - entry.begin)};
  }
  if (expected != data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(data.size() - expected, " bytes follow the last tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<const TensorView*> SafetensorsFile::Find(absl::string_view name) const {
  const auto it = tensors_.find(std::string(name));
  if (it == tensors_.end())
    return absl::NotFoundError(absl::StrCat(path_, " has no tensor \"", name, "\""));
  return &it->second;
}

std::string SafetensorsHeader(const std::vector<TensorSpec>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  return LayOut(tensors, metadata, /*alignment=*/1).header;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorSpec>& tensors,
    const std::map<std::string, std::string>& metadata, size_t alignment) {
  const FileLayout layout = LayOut(tensors, metadata, alignment);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  for (const auto& [name, bytes] : layout.parts) writer->parts_.push_back({name, bytes});
  ANNEAL_RETURN_IF_ERROR(writer->WriteAll(layout.header.data(), layout.header.size()));
  ANNEAL_RETURN_IF_ERROR(writer->WritePadding());
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status SafetensorsWriter::WriteAll(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

// Passes over what needs no bytes from the caller: padding and empty tensors.
absl::Status SafetensorsWriter::WritePadding() {
  static constexpr char kZeros[64] = {};
  while (current_ < parts_.size() &&
         (parts_[current_].name.empty() || parts_[current_].left == 0)) {
    for (uint64_t& left = parts_[current_].left; left > 0;) {
      const uint64_t now = std::min<uint64_t>(left, sizeof(kZeros));
      ANNEAL_RETURN_IF_ERROR(WriteAll(kZeros, now));
      left -= now;
    }
    ++current_;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(absl::string_view name, absl::Span<const std::byte> bytes) {
  if (bytes.empty()) return absl::OkStatus();
  ANNEAL_CHECK(current_ < parts_.size() && parts_[current_].name == name &&
               bytes.size() <= parts_[current_].left);
  ANNEAL_RETURN_IF_ERROR(WriteAll(bytes.data(), bytes.size()));
  parts_[current_].left -= bytes.size();
  return WritePadding();
}

absl::Status SafetensorsWriter::Finish() {
  if (current_ != parts_.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": tensor \"", parts_[current_].name, "\" lacks ", parts_[current_].left, " bytes"));
  }
  if (::fsync(fd_) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot flush ", path_));
  if (::close(std::exchange(fd_, -1)) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot close ", path_));
  return absl::OkStatus();
}

}  // namespace anneal
