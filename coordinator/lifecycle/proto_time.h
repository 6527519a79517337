#pragma once
// TimestampOf and TimeOf for the coordinator's folders, not all of which may include common/spec.

#include "common/spec/proto_time.h"
