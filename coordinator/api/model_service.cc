#include "coordinator/api/model_service.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/rpc/paging.h"
#include "common/rpc/request_id.h"
#include "common/rpc/status.h"
#include "common/spec/references.h"
#include "coordinator/api/pooled_call.h"

namespace anneal {
namespace {

// The id in "models/{model}".
absl::StatusOr<std::string> ModelIdOf(const std::string& name) {
  if (!spec::IsModelName(name)) return InvalidField("name", "is not models/{model}");
  return std::string(absl::StripPrefix(name, "models/"));
}

}  // namespace

grpc::ServerUnaryReactor* ModelServiceImpl::ImportModel(grpc::CallbackServerContext* context,
                                                        const v1::ImportModelRequest* request,
                                                        v1::Model* response) {
  return AnswerOnPool(library_thread_, parts_.authenticator, Right::kWrite, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(
                            *response,
                            parts_.library.Import(caller.project, *request, RequestIdOf(*context)));
                        return absl::OkStatus();
                      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest* request,
                                                     v1::Model* response) {
  return AnswerOnPool(parts_.pool, parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(const std::string id, ModelIdOf(request->name()));
                        ANNEAL_ASSIGN_OR_RETURN(const auto record,
                                                parts_.resources.GetModel(caller.project, id));
                        *response = ModelFrom(*record);
                        return absl::OkStatus();
                      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest* request,
                                                       v1::ListModelsResponse* response) {
  return AnswerOnPool(parts_.pool, parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        const std::string filter = absl::StrCat("models/", caller.project);
                        ANNEAL_ASSIGN_OR_RETURN(
                            const PageRequest page,
                            ParsePageRequest(request->page_size(), request->page_token(), filter));
                        // One more than is shown tells whether there is another page.
                        ANNEAL_ASSIGN_OR_RETURN(std::vector<internal::ModelRecord> records,
                                                parts_.resources.ListModels(
                                                    caller.project, page.after_id, page.size + 1));
                        if (records.size() > static_cast<size_t>(page.size)) {
                          records.pop_back();
                          response->set_next_page_token(MakePageToken(records.back().id(), filter));
                        }
                        for (const internal::ModelRecord& record : records)
                          *response->add_models() = ModelFrom(record);
                        return absl::OkStatus();
                      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::DeleteModel(grpc::CallbackServerContext* context,
                                                        const v1::DeleteModelRequest* request,
                                                        google::protobuf::Empty*) {
  return AnswerOnPool(library_thread_, parts_.authenticator, Right::kWrite, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(const std::string id, ModelIdOf(request->name()));
                        return parts_.library.Delete(caller.project, id);
                      });
}

}  // namespace anneal
