#pragma once
// When TLS certificates end.

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/metrics/metrics.h"

namespace anneal {

// When the first certificate of a PEM file ends to be valid: the program's own, which stands before
// those that vouch for it. NOT_FOUND, or INVALID_ARGUMENT if there is none in the file.
absl::StatusOr<absl::Time> CertificateExpiry(const std::string& pem_file);

// When the last certificate of a PEM file of authorities ends: from then on it vouches for nobody.
// Until an authority is replaced the file holds the old one beside the new one. Errors as above.
absl::StatusOr<absl::Time> AuthoritiesExpiry(const std::string& pem_file);

// Thread-safe.
struct CertificateMetrics {
  explicit CertificateMetrics(MetricRegistry& registry);

  // Reads `pem_file`, which is called `certificate` in the metrics; nothing if it has no name. A
  // file that cannot be read counts as expired in 1970: it must not hide from the alert.
  absl::Status Measure(absl::string_view certificate, const std::string& pem_file);
  // The same for a file of authorities.
  absl::Status MeasureAuthorities(absl::string_view certificate, const std::string& pem_file);

  Gauge expiry;  // {certificate}

 private:
  absl::Status Show(absl::string_view certificate, const absl::StatusOr<absl::Time>& end);
};

}  // namespace anneal
