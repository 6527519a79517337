#include "worker/trainer/checkpoint/checkpointer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/trainer/checkpoint/checkpoint_files.h"

namespace anneal::trainer {
namespace {

// A file as ranks tell each other: its size and the four words of its SHA-256.
constexpr size_t kHashWords = 4;
constexpr size_t kWordsPerFile = 1 + kHashWords;

void AppendWords(const CheckpointFile& file, std::vector<int64_t>& words) {
  const std::string hash = absl::HexStringToBytes(file.sha256);
  int64_t hash_words[kHashWords];
  ANNEAL_CHECK(hash.size() == sizeof(hash_words));
  std::memcpy(hash_words, hash.data(), sizeof(hash_words));
  words.push_back(file.bytes);
  words.insert(words.end(), hash_words, hash_words + kHashWords);
}

CheckpointFile FileFromWords(std::string name, const int64_t* words) {
  const absl::string_view hash(reinterpret_cast<const char*>(words + 1),
                               kHashWords * sizeof(int64_t));
  return {.name = std::move(name), .bytes = words[0], .sha256 = absl::BytesToHexString(hash)};
}

std::vector<ShardState> AllocateLike(const std::vector<ShardState>& state) {
  std::vector<ShardState> copy = state;
  for (ShardState& shard : copy) {
    for (StateSlice& slice : shard.slices) {
      slice.elements = at::empty(slice.elements.sizes(), at::kFloat);
    }
  }
  return copy;
}

}  // namespace

class Checkpointer::Stall {
 public:
  explicit Stall(Checkpointer& owner) : owner_(owner), start_(owner.around_.clock.MonotonicNow()) {}
  ~Stall() {
    owner_.stall_seconds_ += absl::ToDoubleSeconds(owner_.around_.clock.MonotonicNow() - start_);
  }

 private:
  Checkpointer& owner_;
  const absl::Duration start_;
};

Checkpointer::Checkpointer(Options options, Surroundings surroundings,
                           std::vector<ShardState> own_state, int64_t last_step)
    : options_(std::move(options)),
      around_(std::move(surroundings)),
      own_state_(std::move(own_state)),
      begin_time_(around_.clock.MonotonicNow()),
      last_step_(last_step) {}

Checkpointer::~Checkpointer() { thread_.Join(); }

bool Checkpointer::is_due() const {
  return is_first_rank() && options_.interval > absl::ZeroDuration() && !writing_ && !publishing_ &&
         around_.clock.MonotonicNow() - begin_time_ >= options_.interval;
}

absl::Status Checkpointer::AtStepBoundary(int64_t step, bool due, bool all_parts_done) {
  const Stall stall(*this);
  ANNEAL_RETURN_IF_ERROR(ReportIfPublished());
  if (writing_ && all_parts_done) return Settle();
  if (due && !writing_) Begin(step);
  return absl::OkStatus();
}

absl::Status Checkpointer::Complete() {
  const Stall stall(*this);
  if (writing_) ANNEAL_RETURN_IF_ERROR(Settle());
  thread_.Join();
  return ReportIfPublished();
}

absl::Status Checkpointer::CompleteWith(int64_t step) {
  ANNEAL_RETURN_IF_ERROR(Complete());
  if (step <= last_step_) return absl::OkStatus();
  {
    const Stall stall(*this);
    Begin(step);
  }
  return Complete();
}

void Checkpointer::Begin(int64_t step) {
  step_ = step;
  begin_time_ = around_.clock.MonotonicNow();
  stall_before_ = stall_seconds_;
  if (snapshot_.empty()) snapshot_ = AllocateLike(own_state_);
  for (size_t shard = 0; shard < snapshot_.size(); ++shard) {
    for (size_t i = 0; i < snapshot_[shard].slices.size(); ++i) {
      snapshot_[shard].slices[i].elements.copy_(own_state_[shard].slices[i].elements);
    }
  }
  if (is_first_rank()) records_ = around_.records();
  writing_ = true;
  part_is_done_ = false;
  thread_ = Thread("checkpoint", [this] { Write(); });
}

void Checkpointer::Write() {
  parts_ = WriteParts();
  part_is_done_ = true;
}

absl::StatusOr<std::vector<CheckpointFile>> Checkpointer::WriteParts() const {
  const std::string folder = PartialFolder();
  ANNEAL_RETURN_IF_ERROR(around_.files.MakeFolders(folder));
  std::vector<CheckpointFile> written;
  for (const ShardState& shard : snapshot_) {
    const std::string name = CheckpointStateName(shard.shard, options_.logical_shards);
    ANNEAL_ASSIGN_OR_RETURN(written.emplace_back(),
                            WriteStateFile(around_.files, folder, name, BytesOf(shard.slices)));
  }
  return written;
}

absl::Status Checkpointer::Settle() {
  thread_.Join();
  writing_ = false;
  const int world_size = around_.communicator.world_size();
  const size_t files = options_.logical_shards / world_size;
  std::vector<int64_t> words = {parts_.ok()};
  if (parts_.ok()) {
    for (const CheckpointFile& file : *parts_) AppendWords(file, words);
  } else {
    ANNEAL_LOG(ERROR) << "cannot write a checkpoint" << Field("step", step_)
                      << Field("why", parts_.status().ToString());
  }
  words.resize(1 + files * kWordsPerFile);
  const int64_t size = static_cast<int64_t>(words.size());
  const at::Tensor sent = at::tensor(words, at::kLong).to(around_.device);
  at::Tensor received = at::empty({world_size * size}, at::device(around_.device).dtype(at::kLong));
  ANNEAL_RETURN_IF_ERROR(around_.communicator.AllGather(
      sent, received, absl::StrCat("share checkpoint of step ", step_)));
  received = received.cpu();

  std::vector<CheckpointFile> state_files;
  for (int rank = 0; rank < world_size; ++rank) {
    const int64_t* message = received.const_data_ptr<int64_t>() + rank * size;
    if (message[0] == 0) {
      return GiveUp(rank == 0 && is_first_rank()
                        ? parts_.status()
                        : absl::UnavailableError(absl::StrCat(
                              "rank ", rank, " cannot write its part; its log says why")));
    }
    for (size_t i = 0; i < files; ++i) {
      const int shard = static_cast<int>(state_files.size());
      state_files.push_back(FileFromWords(CheckpointStateName(shard, options_.logical_shards),
                                          message + 1 + i * kWordsPerFile));
    }
  }
  last_step_ = step_;
  if (!is_first_rank()) return absl::OkStatus();
  publishing_ = true;
  published_ = false;
  thread_ =
      Thread("publish", [this, state_files = std::move(state_files)] { Publish(state_files); });
  return absl::OkStatus();
}

void Checkpointer::Publish(std::vector<CheckpointFile> state_files) {
  publish_status_ = [&]() -> absl::Status {
    const std::string folder = PartialFolder();
    CheckpointManifest manifest{.job = options_.job,
                                .generation = options_.generation,
                                .step = step_,
                                .total_steps = options_.total_steps,
                                .numeric_fingerprint = options_.numeric_fingerprint,
                                .files = std::move(state_files)};
    ANNEAL_ASSIGN_OR_RETURN(manifest.files.emplace_back(),
                            WritePrefixOf(around_.files, folder, kCheckpointLedgerName,
                                          records_.ledger_path, records_.ledger_bytes));
    ANNEAL_ASSIGN_OR_RETURN(
        manifest.files.emplace_back(),
        WriteTextFile(around_.files, folder, kCheckpointHistoryName, records_.history));
    report_ = {.step = step_, .dir = Dir(), .validation_loss = records_.validation_loss};
    for (const CheckpointFile& file : manifest.files) report_.bytes += file.bytes;
    ANNEAL_ASSIGN_OR_RETURN(report_.manifest_sha256, PublishFolder(manifest));
    report_.write_seconds = absl::ToDoubleSeconds(around_.clock.MonotonicNow() - begin_time_);
    return absl::OkStatus();
  }();
  published_ = true;
}

absl::StatusOr<std::string> Checkpointer::PublishFolder(const CheckpointManifest& manifest) const {
  const std::string partial_name = absl::StrCat(kCheckpointManifestName, ".partial");
  ANNEAL_ASSIGN_OR_RETURN(const CheckpointFile written,
                          WriteTextFile(around_.files, PartialFolder(), partial_name,
                                        FormatCheckpointManifest(manifest)));
  // The first rename makes all names in the folder durable, the second the folder's own.
  ANNEAL_RETURN_IF_ERROR(
      around_.files.Rename(absl::StrCat(PartialFolder(), "/", partial_name),
                           absl::StrCat(PartialFolder(), "/", kCheckpointManifestName)));
  ANNEAL_RETURN_IF_ERROR(around_.files.Rename(PartialFolder(), FinalFolder()));
  return written.sha256;
}

absl::Status Checkpointer::ReportIfPublished() {
  if (!publishing_ || !published_) return absl::OkStatus();
  thread_.Join();
  publishing_ = false;
  if (!publish_status_.ok()) return GiveUp(publish_status_);
  report_.stall_seconds = stall_seconds_ - stall_before_;
  ANNEAL_LOG(INFO) << "checkpoint written" << Field("step", report_.step)
                   << Field("bytes", report_.bytes) << Field("seconds", report_.write_seconds)
                   << Field("stall_seconds", report_.stall_seconds);
  return around_.send_report({.checkpoint = report_});
}

absl::Status Checkpointer::GiveUp(const absl::Status& why) {
  if (!is_first_rank()) return absl::OkStatus();
  ANNEAL_LOG(ERROR) << "a checkpoint is given up" << Field("step", step_)
                    << Field("why", why.ToString());
  // What cannot be removed now is collected with what dead trainers leave.
  around_.files.RemoveTree(PartialFolder()).IgnoreError();
  return around_.send_report({.checkpoint_failed = protocol::CheckpointFailedReport{
                                  .step = step_, .why = std::string(why.message())}});
}

std::string Checkpointer::Dir() const {
  return absl::StrCat(options_.root, "/", step_, "-g", options_.generation);
}
std::string Checkpointer::FinalFolder() const {
  return protocol::ResolvePath(options_.storage_root, Dir());
}
std::string Checkpointer::PartialFolder() const {
  return protocol::ResolvePath(options_.storage_root, absl::StrCat(options_.root, "/tmp/", step_,
                                                                   "-g", options_.generation));
}

}  // namespace anneal::trainer
