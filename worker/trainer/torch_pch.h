#pragma once
// Precompiled for every trainer source: the slow core headers of ATen. Operators are included one
// by one where used
// (#include <ATen/ops/mm.h>), so that adding one does not rebuild the rest.
#include <ATen/Parallel.h>
#include <ATen/TensorOptions.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
