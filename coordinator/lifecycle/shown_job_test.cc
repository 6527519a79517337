#include "coordinator/lifecycle/shown_job.h"

#include <map>

#include "common/spec/resolve.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"

namespace anneal {
namespace {

using google::protobuf::util::MessageDifferencer;

// As CreateJob makes it, with values of every origin; they are put into `origins` if given, else
// into the resolved job as earlier versions did.
internal::JobRecord RecordOf(const v1::JobSpec& spec, spec::Origins* origins = nullptr) {
  spec::ResolveInputs inputs;
  spec::ModelFacts model;
  model.max_positions = 512;
  inputs.model = &model;
  inputs.cluster.cpu_slots = 2;
  inputs.cluster.threads_per_cpu_slot = 3;
  internal::JobRecord record;
  *record.mutable_job()->mutable_spec() = spec;
  *record.mutable_job()->mutable_resolved() = origins == nullptr
                                                  ? spec::ResolveJob(spec, inputs).job
                                                  : spec::ResolveJob(spec, inputs, origins).job;
  record.mutable_job()->set_name("jobs/a");
  return record;
}

v1::JobSpec SmallSpec() {
  v1::JobSpec spec;
  spec.set_model("models/tiny");
  spec.mutable_data()->add_train("files/f");
  spec.mutable_training()->set_epochs(2);
  (*spec.mutable_labels())["team=a"] = "x\ny";
  return spec;
}

TEST(ShownJobTest, TheShortFormShowsWhatTheLongOneDid) {
  v1::JobSpec with_files = SmallSpec();
  with_files.mutable_data()->mutable_validation()->add_files("files/v");
  v1::JobSpec full = SmallSpec();
  full.mutable_method()->mutable_full();
  full.mutable_checkpoint()->mutable_every()->set_seconds(5);
  for (const v1::JobSpec& spec : {SmallSpec(), with_files, full}) {
    const internal::JobRecord before = RecordOf(spec);
    internal::JobRecord packed = before;
    PackOrigins(&packed);
    EXPECT_TRUE(packed.job().resolved().origins().empty());
    spec::Origins origins;
    internal::JobRecord made = RecordOf(spec, &origins);
    KeepOrigins(origins, &made);
    EXPECT_TRUE(MessageDifferencer::Equals(made, packed)) << made.DebugString();
    EXPECT_LT(packed.ByteSizeLong() * 3, before.ByteSizeLong() * 2);
    v1::Job shown;
    ShowJob(packed, &shown);
    EXPECT_TRUE(MessageDifferencer::Equals(shown, before.job())) << shown.DebugString();
    ShowJob(packed, origins, &shown);
    EXPECT_TRUE(MessageDifferencer::Equals(shown, before.job())) << shown.DebugString();
    EXPECT_TRUE(MessageDifferencer::Equals(ShownResolvedJob(packed), before.job().resolved()));
    // Records of earlier versions are shown as they are.
    ShowJob(before, &shown);
    EXPECT_TRUE(MessageDifferencer::Equals(shown, before.job()));
    const internal::JobRecord once = packed;
    PackOrigins(&packed);
    EXPECT_TRUE(MessageDifferencer::Equals(packed, once));
  }
}

TEST(ShownJobTest, WhatIsOddIsKeptToo) {
  internal::JobRecord record = RecordOf(SmallSpec());
  auto& origins = *record.mutable_job()->mutable_resolved()->mutable_origins();
  origins.erase("training.epochs");      // a value without origin
  origins["training.gone"] = "default";  // an origin without value
  const internal::JobRecord before = record;
  PackOrigins(&record);
  EXPECT_TRUE(MessageDifferencer::Equals(ShownResolvedJob(record), before.job().resolved()));
}

TEST(ShownJobTest, OneOriginIsReadAndSet) {
  internal::JobRecord record = RecordOf(SmallSpec());
  for (int form = 0; form < 2; ++form) {
    EXPECT_EQ(OriginOf(record, "training.epochs"), "user");
    EXPECT_EQ(OriginOf(record, "data.max_length"), "model");
    EXPECT_EQ(OriginOf(record, "resources.threads_per_slot"), "cluster");
    EXPECT_EQ(OriginOf(record, "training.seed"), "default");
    EXPECT_EQ(OriginOf(record, "training.nothing"), "");
    PackOrigins(&record);
  }
  SetOrigin("resources.slots", "user", &record);
  EXPECT_EQ(OriginOf(record, "resources.slots"), "user");
  EXPECT_EQ(ShownResolvedJob(record).origins().at("resources.slots"), "user");
}

}  // namespace
}  // namespace anneal
