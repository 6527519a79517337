#include "common/rpc/certificate_metrics.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/pem_file.h"

namespace anneal {

namespace {

// When each certificate of a PEM file ends, in order; at least one.
absl::StatusOr<std::vector<absl::Time>> CertificateEnds(const std::string& pem_file) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string pem, ReadPemFile(pem_file));
  const std::unique_ptr<BIO, int (*)(BIO*)> text(
      ::BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &::BIO_free);
  std::vector<absl::Time> ends;
  while (true) {
    const std::unique_ptr<X509, void (*)(X509*)> certificate(
        ::PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr), &::X509_free);
    std::tm end = {};
    if (certificate == nullptr ||
        ::ASN1_TIME_to_tm(::X509_get0_notAfter(certificate.get()), &end) != 1) {
      break;
    }
    ends.push_back(absl::FromTM(end, absl::UTCTimeZone()));
  }
  ::ERR_clear_error();  // of reading on at the end
  if (ends.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(pem_file, " holds no certificate"));
  }
  return ends;
}

}  // namespace

absl::StatusOr<absl::Time> CertificateExpiry(const std::string& pem_file) {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<absl::Time> ends, CertificateEnds(pem_file));
  return ends.front();
}

absl::StatusOr<absl::Time> AuthoritiesExpiry(const std::string& pem_file) {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<absl::Time> ends, CertificateEnds(pem_file));
  return *std::max_element(ends.begin(), ends.end());
}

CertificateMetrics::CertificateMetrics(MetricRegistry& registry)
    : expiry(registry,
             {"anneal_tls_certificate_expiry_timestamp_seconds",
              "When a certificate that the program shows, or the last of those that it goes "
              "by, ends to be valid, in seconds since 1970.",
              {"certificate"}}) {}

absl::Status CertificateMetrics::Measure(absl::string_view certificate,
                                         const std::string& pem_file) {
  return pem_file.empty() ? absl::OkStatus() : Show(certificate, CertificateExpiry(pem_file));
}

absl::Status CertificateMetrics::MeasureAuthorities(absl::string_view certificate,
                                                    const std::string& pem_file) {
  return pem_file.empty() ? absl::OkStatus() : Show(certificate, AuthoritiesExpiry(pem_file));
}

absl::Status CertificateMetrics::Show(absl::string_view certificate,
                                      const absl::StatusOr<absl::Time>& end) {
  expiry.Set(absl::ToDoubleSeconds(end.value_or(absl::UnixEpoch()) - absl::UnixEpoch()),
             {certificate});
  return end.status();
}

}  // namespace anneal
