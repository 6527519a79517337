#pragma once
// Where the messages of a call live.

#include <array>

#include "google/protobuf/arena.h"
#include "grpcpp/support/message_allocator.h"

namespace anneal {

// Purpose: gives gRPC a call's request and answer on an arena of their own, so that messages of
// many parts are made and destroyed at once, and not by as many allocations that one thread makes
// and another undoes. Owner: the service, which outlives its calls. Thread-safe.
template <typename Request, typename Response>
class ArenaMessages : public grpc::MessageAllocator<Request, Response> {
 public:
  grpc::MessageHolder<Request, Response>* AllocateMessages() override { return new Holder; }

 private:
  class Holder : public grpc::MessageHolder<Request, Response> {
   public:
    Holder() : arena_(Options(first_block_)) {
      this->set_request(google::protobuf::Arena::CreateMessage<Request>(&arena_));
      this->set_response(google::protobuf::Arena::CreateMessage<Response>(&arena_));
    }
    void Release() override { delete this; }

   private:
    // The request is put into the first block; whichever thread answers begins another.
    static google::protobuf::ArenaOptions Options(std::array<char, 2048>& first_block) {
      google::protobuf::ArenaOptions options;
      options.initial_block = first_block.data();
      options.initial_block_size = first_block.size();
      options.start_block_size = 4096;
      return options;
    }

    alignas(8) std::array<char, 2048> first_block_;
    google::protobuf::Arena arena_;
  };
};

}  // namespace anneal
