#include "common/rpc/served_methods.h"

#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/impl/server_initializer.h"

namespace anneal {
namespace {

// gRPC's own services are registered later than ours, and not all have descriptors.
constexpr const char* kOwnMethods[] = {
    "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};

void AddMethodsOf(const std::string& service, ServedMethods& methods) {
  const google::protobuf::ServiceDescriptor* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
  if (descriptor == nullptr) return;
  for (int i = 0; i < descriptor->method_count(); ++i)
    methods.insert(absl::StrCat(service, "/", descriptor->method(i)->name()));
}

// A server does not tell what is registered with it but to its plugins.
class Collector : public grpc::ServerBuilderPlugin {
 public:
  explicit Collector(std::shared_ptr<ServedMethods> methods) : methods_(std::move(methods)) {}
  std::string name() override { return "anneal.served_methods"; }
  void InitServer(grpc::ServerInitializer* initializer) override {
    for (const std::string& service : *initializer->GetServiceList())
      AddMethodsOf(service, *methods_);
  }
  void Finish(grpc::ServerInitializer*) override {}
  void ChangeArguments(const std::string&, void*) override {}

 private:
  const std::shared_ptr<ServedMethods> methods_;
};

class CollectorOption : public grpc::ServerBuilderOption {
 public:
  explicit CollectorOption(std::shared_ptr<ServedMethods> methods) : methods_(std::move(methods)) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<Collector>(methods_));
  }

 private:
  const std::shared_ptr<ServedMethods> methods_;
};

class FilteredFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  FilteredFactory(std::unique_ptr<ServerInterceptorFactoryInterface> factory,
                  std::shared_ptr<const ServedMethods> methods)
      : factory_(std::move(factory)), methods_(std::move(methods)) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    if (!IsServed(*methods_, info->method())) return nullptr;
    return factory_->CreateServerInterceptor(info);
  }

 private:
  const std::unique_ptr<ServerInterceptorFactoryInterface> factory_;
  const std::shared_ptr<const ServedMethods> methods_;
};

}  // namespace

std::shared_ptr<const ServedMethods> CollectServedMethods(grpc::ServerBuilder& builder) {
  auto methods = std::make_shared<ServedMethods>(std::begin(kOwnMethods), std::end(kOwnMethods));
  builder.SetOption(std::make_unique<CollectorOption>(methods));
  return methods;
}

bool IsServed(const ServedMethods& methods, absl::string_view path) {
  return methods.count(std::string(absl::StripPrefix(path, "/"))) > 0;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> ForServedMethods(
    std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> factory,
    std::shared_ptr<const ServedMethods> methods) {
  return std::make_unique<FilteredFactory>(std::move(factory), std::move(methods));
}

}  // namespace anneal
