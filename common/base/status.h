#pragma once
// Status helpers on Abseil's Status: macros, context, retry rule, and checks for our own bugs.
//
// Debian 12's Abseil (20220623) has no status macros; these carry the names of the newer ones
// behind our prefix and are to be swapped out later. Errors below the RPC edge are absl::Status;
// ANNEAL_CHECK is for our own bugs, never for input.

#include <utility>
#include "absl/strings/string_view.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace anneal {

// `context: old message`, keeping code and payloads. An OK status stays as it is.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

// Whether the same call may succeed later without anyone changing anything. The only place that
// decides it.
bool IsRetryable(absl::StatusCode code);
inline bool IsRetryable(const absl::Status& status) { return IsRetryable(status.code()); }

// Machine-readable reason ("MODEL_NOT_FOUND"), carried as a payload and shown as
// google.rpc.ErrorInfo.reason.
absl::Status WithReason(absl::Status status, absl::string_view reason);
std::string ReasonOf(const absl::Status& status);

// Runs `fn` and turns an exception (std::bad_alloc -> RESOURCE_EXHAUSTED, anything else ->
// INTERNAL) into a Status.
template <typename Fn>
absl::Status CatchAll(absl::string_view what, Fn&& fn);

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* expression,
                              absl::string_view message);
absl::Status CurrentExceptionToStatus(absl::string_view what);
}  // namespace internal

template <typename Fn>
absl::Status CatchAll(absl::string_view what, Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (...) {
    return internal::CurrentExceptionToStatus(what);
  }
}

}  // namespace anneal

#define ANNEAL_CONCAT_INNER_(a, b) a##b
#define ANNEAL_CONCAT_(a, b) ANNEAL_CONCAT_INNER_(a, b)

// Returns from the function if `expr` (a Status) is not OK.
#define ANNEAL_RETURN_IF_ERROR(expr)                                                       \
  do {                                                                                     \
    if (absl::Status anneal_status_ = (expr); !anneal_status_.ok()) return anneal_status_; \
  } while (false)

// ANNEAL_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or return its status.
#define ANNEAL_ASSIGN_OR_RETURN(lhs, expr) \
  ANNEAL_ASSIGN_OR_RETURN_IMPL_(ANNEAL_CONCAT_(anneal_statusor_, __LINE__), lhs, expr)
#define ANNEAL_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return std::move(tmp).status();      \
  lhs = std::move(tmp).value()

#define ANNEAL_CHECK(condition)                                                            \
  do {                                                                                     \
    if (!(condition)) ::anneal::internal::CheckFailed(__FILE__, __LINE__, #condition, ""); \
  } while (false)
#define ANNEAL_CHECK_OK(expr)                                                                \
  do {                                                                                       \
    if (absl::Status anneal_status_ = (expr); !anneal_status_.ok())                          \
      ::anneal::internal::CheckFailed(__FILE__, __LINE__, #expr, anneal_status_.ToString()); \
  } while (false)
