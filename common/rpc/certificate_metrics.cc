#include "common/rpc/certificate_metrics.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/pem_file.h"

namespace anneal {

absl::StatusOr<absl::Time> CertificateExpiry(const std::string& pem_file) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string pem, ReadPemFile(pem_file));
  const std::unique_ptr<BIO, int (*)(BIO*)> text(
      ::BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &::BIO_free);
  const std::unique_ptr<X509, void (*)(X509*)> certificate(
      ::PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr), &::X509_free);
  std::tm end = {};
  if (certificate == nullptr ||
      ::ASN1_TIME_to_tm(::X509_get0_notAfter(certificate.get()), &end) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(pem_file, " holds no certificate"));
  }
  return absl::FromTM(end, absl::UTCTimeZone());
}

CertificateMetrics::CertificateMetrics(MetricRegistry& registry)
    : expiry(registry, {"anneal_tls_certificate_expiry_timestamp_seconds",
                        "When a certificate that the program shows ends to be valid, in seconds "
                        "since 1970.",
                        {"certificate"}}) {}

absl::Status CertificateMetrics::Measure(absl::string_view certificate,
                                         const std::string& pem_file) {
  if (pem_file.empty()) return absl::OkStatus();
  const absl::StatusOr<absl::Time> end = CertificateExpiry(pem_file);
  expiry.Set(absl::ToDoubleSeconds(end.value_or(absl::UnixEpoch()) - absl::UnixEpoch()),
             {certificate});
  return end.status();
}

}  // namespace anneal
