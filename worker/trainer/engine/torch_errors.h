#pragma once
// The engine's one wrapper around code that may throw torch's exceptions.

#include <c10/util/Exception.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::trainer {

// Runs `fn`, which returns a Status. Out of memory, on the device or the host, becomes
// RESOURCE_EXHAUSTED with reason OUT_OF_MEMORY, any other exception INTERNAL; torch's messages lose
// their stack trace.
template <typename Fn>
absl::Status CatchTorch(absl::string_view what, Fn&& fn) {
  const auto out_of_memory = [&](absl::string_view message) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            what, ": out of memory: ", message, ". A smaller microbatch_tokens needs less of it")),
        "OUT_OF_MEMORY");
  };
  try {
    return std::forward<Fn>(fn)();
  } catch (const c10::OutOfMemoryError& e) {
    return out_of_memory(e.what_without_backtrace());
  } catch (const c10::Error& e) {
    // The CPU allocator throws no type of its own.
    const char* message = e.what_without_backtrace();
    if (absl::StrContains(message, "DefaultCPUAllocator")) return out_of_memory(message);
    return absl::InternalError(absl::StrCat(what, ": ", message));
  } catch (const std::bad_alloc& e) {
    return out_of_memory(e.what());
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat(what, ": ", e.what()));
  }
}

}  // namespace anneal::trainer
