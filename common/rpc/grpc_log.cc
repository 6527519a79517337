#include "common/rpc/grpc_log.h"

#include "common/base/log.h"
#include "grpc/support/log.h"

namespace anneal {
namespace {

void Write(gpr_log_func_args* args) {
  const LogSeverity severity = args->severity == GPR_LOG_SEVERITY_ERROR   ? LogSeverity::kError
                               : args->severity == GPR_LOG_SEVERITY_DEBUG ? LogSeverity::kDebug
                                                                          : LogSeverity::kInfo;
  if (!internal::ShouldLog(severity)) return;
  internal::LogLine(severity, args->file, args->line).self()
      << args->message << Field("library", "grpc");
}

}  // namespace

void TakeGrpcLogs() { gpr_set_log_function(Write); }

}  // namespace anneal
