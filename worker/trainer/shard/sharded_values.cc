#include "worker/trainer/shard/sharded_values.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

Part PartOf(Sharding sharding, const Communicator& communicator) {
  if (sharding == Sharding::kNone) return {};
  return {.index = communicator.rank(), .count = communicator.world_size()};
}

// Takes a unit's tensors away from the decoder.
std::vector<at::Tensor> NoneOf(const UnitBuffer& buffer) {
  return std::vector<at::Tensor>(buffer.views.size());
}

}  // namespace

ShardedValues::ShardedValues(const FlatLayout& layout, const FlatLayout& frozen_layout,
                             const Options& options, Decoder& decoder, Communicator& communicator)
    : layout_(layout),
      frozen_layout_(frozen_layout),
      sharding_(EffectiveSharding(options.sharding, communicator.world_size())),
      part_(PartOf(sharding_, communicator)),
      compute_type_(options.compute_type),
      whole_type_(sharding_ == Sharding::kNone ? at::kFloat : options.compute_type),
      device_(options.device),
      decoder_(decoder),
      communicator_(communicator),
      whole_(sharding_ == Sharding::kFull
                 ? FlatBuffers(std::vector<UnitBuffer>(layout.units().size()))
                 : FlatBuffers(layout, device_, whole_type_)),
      own_(own_is_in_whole() ? whole_.Parts(part_) : ZeroParts(layout, part_, device_)),
      own_frozen_(ZeroParts(frozen_layout, part_, device_, compute_type_)),
      gathered_(layout.units().size()) {}

absl::Status ShardedValues::Initialise(uint64_t seed) {
  for (int unit = 0; unit < whole_.units(); ++unit) {
    if (own_[unit].defined() && own_is_in_whole()) {
      ANNEAL_RETURN_IF_ERROR(decoder_.InitialValues(unit, seed, whole_.views(unit)));
    } else if (own_[unit].defined()) {
      UnitBuffer values = ZeroUnitBuffer(layout_.units()[unit], device_);
      ANNEAL_RETURN_IF_ERROR(decoder_.InitialValues(unit, seed, values.views));
      own_[unit].copy_(part_.Of(values.flat));
      if (sharding_ != Sharding::kFull) whole_.flat(unit).copy_(values.flat);
    }
    if (whole_.flat(unit).defined()) decoder_.Bind(unit, whole_.views(unit));
    if (own_frozen_[unit].defined()) {
      UnitBuffer values = ZeroUnitBuffer(frozen_layout_.units()[unit], device_, compute_type_);
      ANNEAL_RETURN_IF_ERROR(decoder_.FrozenValues(unit, values.views));
      own_frozen_[unit].copy_(part_.Of(values.flat));
    }
  }
  return absl::OkStatus();
}

absl::Status ShardedValues::Share(absl::string_view when) {
  if (sharding_ == Sharding::kNone || sharding_ == Sharding::kFull) return absl::OkStatus();
  for (int unit = 0; unit < whole_.units(); ++unit) {
    at::Tensor& whole = whole_.flat(unit);
    if (!whole.defined()) continue;
    ANNEAL_RETURN_IF_ERROR(
        communicator_.AllGather(own_[unit].to(whole_type_), whole, TagOf(unit, when)));
  }
  return absl::OkStatus();
}

absl::Status ShardedValues::Acquire(int unit, int next) {
  if (sharding_ != Sharding::kFull) return absl::OkStatus();
  const bool is_ahead = ahead_ == unit;
  ANNEAL_RETURN_IF_ERROR(Settle());
  if (!is_ahead) ANNEAL_RETURN_IF_ERROR(Gather(unit));
  if (own_[unit].defined()) decoder_.Bind(unit, gathered_[unit].trainable.views);
  if (own_frozen_[unit].defined()) decoder_.BindFrozen(unit, gathered_[unit].frozen.views);
  if (next >= 0) GatherAhead(next);
  return absl::OkStatus();
}

void ShardedValues::Release(int unit) {
  if (sharding_ != Sharding::kFull) return;
  if (own_[unit].defined()) decoder_.Bind(unit, NoneOf(gathered_[unit].trainable));
  if (own_frozen_[unit].defined()) decoder_.BindFrozen(unit, NoneOf(gathered_[unit].frozen));
  gathered_[unit] = {};
}

absl::Status ShardedValues::Settle() {
  if (ahead_ < 0) return absl::OkStatus();
  thread_.Join();
  ahead_ = -1;
  return ahead_status_;
}

absl::Status ShardedValues::Gather(int unit) {
  Allocate(unit);
  return Fill(unit);
}

void ShardedValues::GatherAhead(int unit) {
  Allocate(unit);
  ahead_ = unit;
  thread_ = Thread("gather", [this, unit] { ahead_status_ = Fill(unit); });
}

void ShardedValues::Allocate(int unit) {
  gathered_[unit] = {EmptyUnitBuffer(layout_.units()[unit], device_, whole_type_),
                     EmptyUnitBuffer(frozen_layout_.units()[unit], device_, compute_type_)};
}

absl::Status ShardedValues::Fill(int unit) {
  Gathered& gathered = gathered_[unit];
  if (own_[unit].defined()) {
    ANNEAL_RETURN_IF_ERROR(communicator_.AllGather(own_[unit].to(whole_type_),
                                                   gathered.trainable.flat, TagOf(unit, "to use")));
  }
  if (own_frozen_[unit].defined()) {
    ANNEAL_RETURN_IF_ERROR(communicator_.AllGather(own_frozen_[unit], gathered.frozen.flat,
                                                   TagOf(unit, "frozen, to use")));
  }
  return absl::OkStatus();
}

absl::StatusOr<UnitBuffer> ShardedValues::GatherMasters(int unit) {
  if (own_is_in_whole()) return whole_.unit(unit);
  UnitBuffer masters = EmptyUnitBuffer(layout_.units()[unit], device_, at::kFloat);
  if (own_[unit].defined()) {
    ANNEAL_RETURN_IF_ERROR(
        communicator_.AllGather(own_[unit], masters.flat, TagOf(unit, "to export")));
  }
  return masters;
}

std::string ShardedValues::TagOf(int unit, absl::string_view when) const {
  return absl::StrCat("gather ", layout_.units()[unit].name, " ", when);
}

}  // namespace anneal::trainer
