#pragma once
// A cell's rows, packed without padding: the unit of arithmetic (docs/design.md, "cells"). Plain
// memory, no torch.
//
// Shapes: T tokens in the micro-batch, R rows, S supervised positions.

#include <cstdint>
#include <vector>

namespace anneal::trainer {

struct MicroBatch {
  int64_t step = 0;  // from 1; 0 for evaluation
  int32_t logical_shard = 0;
  int32_t index = 0;                 // of the micro-batch within its shard
  std::vector<int64_t> source_rows;  // [R] example index in the prepared data set
  std::vector<int32_t> row_starts;   // [R + 1] first token of each row, and T
  std::vector<int64_t> token_ids;    // [T]
  std::vector<int64_t> positions;    // [T] restart at 0 in each row
  // Token p of a row is supervised when loss_weight[p] = 1; it is predicted at p - 1, so the first
  // token of a row never is.
  std::vector<int64_t>
      supervised_positions;      // [S] ascending indices t into [0, T): logits at t predict targets
  std::vector<int64_t> targets;  // [S] token_ids[t + 1]
  std::vector<int32_t> supervised_rows;  // [S] row in [0, R) of each
};

}  // namespace anneal::trainer
