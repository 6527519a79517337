#include "worker/trainer/kernels/philox.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal::trainer {

PhiloxKey MakePhiloxKey(uint64_t seed, int64_t number, absl::string_view name) {
  const std::string digest = Sha256Hex(absl::StrCat(seed, "/", number, "/", name));
  PhiloxKey key;
  for (int i = 0; i < 2; ++i) {
    ANNEAL_CHECK(absl::SimpleHexAtoi(absl::string_view(digest).substr(8 * i, 8), &key.word[i]));
  }
  return key;
}

}  // namespace anneal::trainer
