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

absl::StatusOr<std::unique_ptr<LedgerWriter>> LedgerWriter::Create(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("create ledger ", path));
  return std::unique_ptr<LedgerWriter>(new LedgerWriter(path, std::move(fd)));
}

absl::Status LedgerWriter::Append(const LedgerEntry& entry) {
  std::string line = FormatLedgerLine(entry) + "\n";
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(fd_.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat("write ledger ", path_));
    rest.remove_prefix(written);
  }
  return absl::OkStatus();
}

}  // namespace anneal::trainer
