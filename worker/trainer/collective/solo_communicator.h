#pragma once
// The communicator of a world of one: what goes in comes out.

#include <memory>

#include "worker/trainer/collective/communicator.h"

namespace anneal::trainer {

std::unique_ptr<Communicator> MakeSoloCommunicator();

}  // namespace anneal::trainer
