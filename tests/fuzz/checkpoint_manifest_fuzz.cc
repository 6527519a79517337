// Any manifest of a checkpoint: refused, or understood and written again in the same words, with
// sizes and names that are safe to use.

#include "common/base/status.h"
#include "common/format/checkpoint_manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<anneal::CheckpointManifest> manifest = anneal::ParseCheckpointManifest(text);
  if (!manifest.ok()) return 0;
  ANNEAL_CHECK(manifest->step >= 1 && manifest->step <= manifest->total_steps);
  for (const anneal::CheckpointFile& file : manifest->files) {
    ANNEAL_CHECK(file.bytes >= 0 && file.name.find('/') == file.name.npos);
  }
  const std::string formatted = anneal::FormatCheckpointManifest(*manifest);
  const absl::StatusOr<anneal::CheckpointManifest> again =
      anneal::ParseCheckpointManifest(formatted);
  ANNEAL_CHECK_OK(again.status());
  ANNEAL_CHECK(anneal::FormatCheckpointManifest(*again) == formatted);
  return 0;
}
