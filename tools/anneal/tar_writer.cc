#include "tools/anneal/tar_writer.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace anneal::cli {
namespace {

constexpr size_t kBlock = 512;

struct Header {
  char name[100];
  char mode[8];
  char uid[8];
  char gid[8];
  char size[12];
  char changed[12];
  char checksum[8];
  char type;
  char link[100];
  char magic[6];
  char version[2];
  char rest[247];
};
static_assert(sizeof(Header) == kBlock);

// Octal digits that fill the field but for its end.
template <size_t kSize>
void SetNumber(char (&field)[kSize], uint64_t value) {
  const std::string digits = absl::StrFormat("%0*o", static_cast<int>(kSize) - 1, value);
  ANNEAL_CHECK(digits.size() < kSize);
  std::memcpy(field, digits.c_str(), kSize);
}

}  // namespace

absl::StatusOr<TarWriter> TarWriter::Create(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::remove(path, error);
  std::ofstream out(path, std::ios::binary);
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write, error);
  if (!out || error) return absl::FailedPreconditionError(absl::StrCat("cannot make ", path));
  return TarWriter(path, std::move(out));
}

absl::Status TarWriter::Add(absl::string_view name, absl::string_view content, absl::Time changed) {
  Header header = {};
  ANNEAL_CHECK(name.size() <= sizeof(header.name));
  std::memcpy(header.name, name.data(), name.size());
  SetNumber(header.mode, 0600);
  SetNumber(header.uid, 0);
  SetNumber(header.gid, 0);
  SetNumber(header.size, content.size());
  SetNumber(header.changed, static_cast<uint64_t>(absl::ToUnixSeconds(changed)));
  header.type = '0';
  std::memcpy(header.magic, "ustar", sizeof(header.magic));
  std::memcpy(header.version, "00", sizeof(header.version));
  // Of the header with blanks in the checksum's place.
  std::memset(header.checksum, ' ', sizeof(header.checksum));
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  SetNumber(header.checksum, std::accumulate(bytes, bytes + kBlock, uint64_t{0}));
  out_.write(reinterpret_cast<const char*>(&header), kBlock);
  out_.write(content.data(), static_cast<std::streamsize>(content.size()));
  const std::string padding((kBlock - content.size() % kBlock) % kBlock, '\0');
  out_.write(padding.data(), static_cast<std::streamsize>(padding.size()));
  return Written();
}

absl::Status TarWriter::Finish() {
  const std::string end(2 * kBlock, '\0');
  out_.write(end.data(), static_cast<std::streamsize>(end.size()));
  out_.close();
  return Written();
}

absl::Status TarWriter::Written() {
  return out_ ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path_));
}

}  // namespace anneal::cli
