// The UMT5 text encoder as a Program of one layer that is replayed with each layer's weights
// (umt5 facts 24-28): the encoder never has to be resident whole. Embedding rows are looked up on
// the CPU.
#pragma once

#include <functional>
#include <vector>

#include "format/model_config.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

class Umt5Encoder {
  public:
    /// `tokens`: length of the (padded) sequence; `valid`: tokens that may be attended to, the
    /// first ones.
    Umt5Encoder(Program& program, const format::Umt5Config& config, int tokens, int valid,
                bool half);

    Tensor hidden() const { return x_.tensor; }
    std::uint32_t layer_phase() const { return layer_phase_; }
    std::uint32_t final_phase() const { return final_phase_; }

    /// Runs the whole encoder; fp32 [tokens, dim], all rows. `between(done, total)` may cancel:
    /// then empty. `after_layer(index)` lets tests look at intermediates.
    std::vector<float> encode(program::Executor& executor, const format::Checkpoint& checkpoint,
                              const std::vector<int>& ids,
                              const std::function<bool(int, int)>& between = {},
                              const std::function<void(int)>& after_layer = {}) const;

    /// Bucket of a relative position key - query: bidirectional, logarithm in fp32 (umt5 fact 24).
    static int relative_bucket(int relative_position, int num_buckets, int max_distance);

  private:
    void build();

    format::Umt5Config config_;
    Program& program_;
    int tokens_;
    int valid_;
    WeightSet layer_weights_, final_weights_;
    Matrix x_, normed_;
    std::uint32_t layer_phase_ = 0, final_phase_ = 0;
};

}  // namespace quantsparse::models
