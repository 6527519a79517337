#include "worker/trainer/data/ledger.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/json.h"

namespace anneal::trainer {

std::string FormatLedgerLine(const LedgerEntry& entry) {
  Json json;
  json["step"] = entry.step;
  json["rows"] = entry.rows;
  json["supervised_tokens"] = entry.supervised_tokens;
  json["loss"] = entry.loss;
  json["learning_rate"] = entry.learning_rate;
  json["grad_norm"] = entry.grad_norm;
  return DumpJson(json);
}

absl::StatusOr<std::unique_ptr<LedgerWriter>> LedgerWriter::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  const off_t bytes = fd.valid() ? lseek(fd.get(), 0, SEEK_END) : -1;
  if (bytes < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ledger ", path));
  return std::unique_ptr<LedgerWriter>(new LedgerWriter(path, std::move(fd), bytes));
}

absl::Status LedgerWriter::Append(const LedgerEntry& entry) {
  std::string line = FormatLedgerLine(entry) + "\n";
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(fd_.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat("write ledger ", path_));
    rest.remove_prefix(written);
    bytes_ += written;
  }
  return absl::OkStatus();
}

}  // namespace anneal::trainer
