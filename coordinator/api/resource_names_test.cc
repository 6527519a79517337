#include "coordinator/api/resource_names.h"

#include "gtest/gtest.h"

namespace anneal {
namespace {

constexpr char kUlid[] = "01hf7yat00aaaaaaaaaaaaaaaa";

TEST(ResourceNamesTest, OnlyWhatTheApiNamesIsAResource) {
  const std::string id = kUlid;
  for (const std::string& name :
       {"jobs/" + id, "jobs/" + id + "/artifacts/adapter/config.json", "files/" + id, "keys/" + id,
        std::string("models/tiny"), std::string("workers/w-1.example")}) {
    EXPECT_TRUE(IsResourceName(name)) << name;
  }
  const std::string secret(64, 'f');
  for (const std::string& name :
       {std::string(), std::string("/"), id, "keys/" + secret, "jobs/" + secret, "jobs/" + id + "x",
        "jobs/" + id + "/", "jobs/" + id + "/artifacts/../x", std::string("jobs//artifacts/x"),
        "workers/" + secret, std::string("workers/W"), std::string("models/"),
        std::string("models/a b"), "secrets/" + id}) {
    EXPECT_FALSE(IsResourceName(name)) << name;
  }
}

}  // namespace
}  // namespace anneal
