#pragma once
// OpenSSL as gRPC's threads need it.

#include <openssl/crypto.h>

namespace anneal::internal {

// gRPC's threads end some time after main does, and close connections until then. OpenSSL's cleanup
// at exit would take from under them what they use (OPENSSL_init_crypto(3)), and everything is the
// kernel's to free by then. In each program that includes this, before its main.
inline const int kTlsLibraryStays = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);

}  // namespace anneal::internal
