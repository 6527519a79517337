#pragma once
// Whether a folder behaves as the storage root must: Anneal publishes by rename, and believes what
// was synced.

#include <string>

#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/storage/file_system.h"

namespace anneal {

// Renames files over one that is read all the time, syncs, and measures how long that takes. Makes
// `folder` for it and removes it. Uses a thread of its own; takes a second or so.
v1::Check CheckStorage(FileSystem& files, const std::string& folder, Clock& clock);

}  // namespace anneal
