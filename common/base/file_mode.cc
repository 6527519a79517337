#include "common/base/file_mode.h"

#include <sys/stat.h>

namespace anneal {

void KeepOthersOut() {
  // Setting it is the only way to read it.
  const mode_t old = ::umask(S_IWGRP | S_IRWXO);
  ::umask(old | S_IWGRP | S_IRWXO);
}

}  // namespace anneal
