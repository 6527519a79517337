#pragma once
// The values of one rank, whole and in part.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/thread.h"
#include "common/plan/sharding.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// The decoder computes with whole units; the optimizer changes this rank's own part of each in
// fp32.
//
// Up to Sharding::kGradients every unit is whole all the time, and Share makes the whole of what
// all ranks have changed. Where the decoder computes in fp32, or nothing is sharded, the part lies
// in the whole; else whole units are held in bf16 and the fp32 masters of the own part apart from
// them. With kFull a rank holds parts alone, of the frozen values too (the decoder's are lent), and
// a unit is whole only between Acquire and Release; the next one is gathered meanwhile by a thread
// of its own, "gather".
//
// Owner: Trainer. Guarded by its caller.
class ShardedValues {
 public:
  struct Options {
    Sharding sharding = Sharding::kNone;
    at::ScalarType compute_type = at::kFloat;
    at::Device device = at::kCPU;
  };
  // Layouts of the decoder's units and frozen units. All references must outlive it.
  ShardedValues(const FlatLayout& layout, const FlatLayout& frozen_layout, const Options& options,
                Decoder& decoder, Communicator& communicator);

  // Fills the values as the decoder says, and binds the decoder to those that are whole.
  absl::Status Initialise(uint64_t seed);

  Sharding sharding() const { return sharding_; }
  const Part& part() const { return part_; }
  // fp32, by unit. What writes here calls Share before anything is computed.
  const FlatParts& own() const { return own_; }
  // Fills the whole with the parts of all ranks, which call it together.
  absl::Status Share(absl::string_view when);

  // Around each use of a unit by the decoder; all ranks make the same calls. `next`: the unit that
  // comes after, to be gathered ahead, or -1. No other call may be made on the communicator before
  // Settle or the next Acquire.
  absl::Status Acquire(int unit, int next);
  void Release(int unit);
  absl::Status Settle();

  // A unit's trainable values in fp32, whole, by the layout: a copy that the caller may drop, or
  // what is there. All ranks call it together.
  absl::StatusOr<UnitBuffer> GatherMasters(int unit);

 private:
  struct Gathered {
    UnitBuffer trainable, frozen;
  };

  bool own_is_in_whole() const { return sharding_ != Sharding::kFull && whole_type_ == at::kFloat; }
  std::string TagOf(int unit, absl::string_view when) const;
  // Makes gathered_[unit] and fills it, or begins to.
  absl::Status Gather(int unit);
  void GatherAhead(int unit);
  void Allocate(int unit);
  absl::Status Fill(int unit);

  const FlatLayout& layout_;
  const FlatLayout& frozen_layout_;
  const Sharding sharding_;
  const Part part_;
  const at::ScalarType compute_type_;
  const at::ScalarType whole_type_;  // of trainable values when whole
  const at::Device device_;
  Decoder& decoder_;
  Communicator& communicator_;
  FlatBuffers whole_;     // bound to the decoder; without memory in kFull
  FlatParts own_;         // in whole_, if that is fp32
  FlatParts own_frozen_;  // kFull only, in compute type

  std::vector<Gathered> gathered_;  // by unit, kFull only
  int ahead_ = -1;                  // the unit that thread_ gathers
  absl::Status ahead_status_;       // of the thread until it is joined
  Thread thread_;                   // last: fills the members above
};

}  // namespace anneal::trainer
