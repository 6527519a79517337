#include "coordinator/api/stream_pump.h"

#include <algorithm>

namespace anneal {
namespace {

// Heartbeats, progress and growing logs are looked at this often.
constexpr absl::Duration kPumpEvery = absl::Milliseconds(250);

}  // namespace

StreamPump::StreamPump(const Catalog& catalog) : catalog_(catalog) {
  thread_ = Thread("stream-pump", [this] { Run(); });
}

void StreamPump::Add(std::shared_ptr<PumpedStream> stream) {
  {
    absl::MutexLock lock(&mu_);
    if (!stopping_) {
      streams_.push_back(std::move(stream));
      return;
    }
  }
  stream->Abort();
}

void StreamPump::Remove(const PumpedStream* stream) {
  // Destroyed outside the lock.
  std::shared_ptr<PumpedStream> removed;
  absl::MutexLock lock(&mu_);
  const auto found = std::find_if(streams_.begin(), streams_.end(),
                                  [&](const auto& s) { return s.get() == stream; });
  if (found == streams_.end()) return;
  removed = std::move(*found);
  streams_.erase(found);
}

void StreamPump::Run() {
  uint64_t seen = 0;
  while (true) {
    seen = catalog_.AwaitVersionAbove(seen, kPumpEvery);
    std::vector<std::shared_ptr<PumpedStream>> streams;
    {
      absl::MutexLock lock(&mu_);
      if (stopping_) return;
      streams = streams_;
    }
    for (const std::shared_ptr<PumpedStream>& stream : streams) stream->Pump();
  }
}

void StreamPump::Stop() {
  std::vector<std::shared_ptr<PumpedStream>> streams;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    streams.swap(streams_);
  }
  for (const std::shared_ptr<PumpedStream>& stream : streams) stream->Abort();
  thread_.Join();
}

}  // namespace anneal
