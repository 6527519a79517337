// Tells ThreadSanitizer about the order that gRPC makes. Linked into every program of the tsan
// preset, and nowhere else.
//
// Debian's gRPC is built without ThreadSanitizer, which therefore does not see that what a thread
// did before it started an operation on a call comes before what another thread does when the
// operation has ended. The C++ headers hand every batch of operations to grpc_call_start_batch, and
// give the call back with grpc_call_unref before they run its callback: the edge runs from the one
// to the other, through the call itself. The definitions below stand before the library's, say what
// happens, and call them.

#include <dlfcn.h>
#include <grpc/grpc.h>

extern "C" {

void __tsan_acquire(void* address);
void __tsan_release(void* address);

// A call's interceptors are made by one thread of a server and asked by others, whichever the
// library takes; that one comes after the other is the library's doing and unseen, because they are
// asked before the call is given back. So what these functions themselves touch (not what they
// call: race_top) is passed over: it is their call's alone.
const char* __tsan_default_suppressions() { return "race_top:Intercept\n"; }

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t nops, void* tag,
                                      void* reserved) {
  static auto* const real =
      reinterpret_cast<decltype(&grpc_call_start_batch)>(dlsym(RTLD_NEXT, "grpc_call_start_batch"));
  __tsan_release(call);
  return real(call, ops, nops, tag, reserved);
}

void grpc_call_unref(grpc_call* call) {
  static auto* const real =
      reinterpret_cast<decltype(&grpc_call_unref)>(dlsym(RTLD_NEXT, "grpc_call_unref"));
  __tsan_acquire(call);
  real(call);
}
}
