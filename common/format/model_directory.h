#pragma once
// A Hugging Face model directory as a whole: what it must hold, what it is, and the hash that names
// its content. Without torch and without reading the weights' bytes, but for the hash.

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/format/model_config.h"

namespace anneal {

struct ModelFile {
  // Within the directory; never with a slash.
  std::string name;
  int64_t size_bytes = 0;
};

struct ModelDirectory {
  std::string path;
  ModelConfig config;
  int64_t parameters = 0;
  // The files that make up the model: config, weights, tokenizer. By name; whatever else lies in
  // the directory is no part of it.
  std::vector<ModelFile> files;
  int64_t size_bytes = 0;  // of these
  bool has_chat_template = false;
};

// Checks that the directory holds a whole model that we can train: a config of a known family, all
// weights in safetensors with the shapes that the config asks for, a tokenizer. NOT_FOUND if there
// is no directory, INVALID_ARGUMENT with what is missing or wrong and what to do. Files may be
// symbolic links, as in the cache of the Hugging Face hub.
absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& path);

// SHA-256 of files, remembered while size, time of change and inode stay the same. What changed
// less than two seconds ago is read again, since file systems keep times coarsely. Thread-safe: of
// those who ask for one file at the same time one reads it, and the others wait for that.
class FileHashCache {
 public:
  using Hasher = std::function<absl::StatusOr<std::string>(const std::string& path)>;

  explicit FileHashCache(Clock& clock);
  // With another way to read a file: for tests.
  FileHashCache(Clock& clock, Hasher hasher) : clock_(clock), hasher_(std::move(hasher)) {}
  absl::StatusOr<std::string> Sha256Of(const std::string& path);

 private:
  // Device, inode, size, seconds and nanoseconds of the last change.
  using Identity = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;
  Clock& clock_;
  const Hasher hasher_;
  absl::Mutex mu_;
  // Being read.
  std::set<std::string> reading_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::pair<Identity, std::string>> hashes_ ABSL_GUARDED_BY(mu_);
};

// The model's identity (docs/formats/model_hash.md): what `sha256sum` prints for its files in byte
// order of their names, hashed again. Reads every byte that `cache` does not know.
absl::StatusOr<std::string> ModelContentHash(const ModelDirectory& model, FileHashCache& cache);

// Whether the directory still is the model with that content hash. FAILED_PRECONDITION with reason
// MODEL_CHANGED if it holds another one, or none. Reads every byte.
absl::Status CheckModelUnchanged(const std::string& path, absl::string_view content_hash);

}  // namespace anneal
