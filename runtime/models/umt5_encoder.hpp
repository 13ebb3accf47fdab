// The UMT5 text encoder as a Program of one layer that is replayed with each layer's weights
// (umt5 facts 24-28): the encoder never has to be resident whole. Embedding rows are looked up on
// the CPU.
#pragma once

#include <functional>
#include <vector>

#include "format/networks/umt5.hpp"
#include "models/text_encoder.hpp"

namespace quantsparse::models {

class Umt5Encoder final : public TextEncoder {
  public:
    /// `tokens`: length of the (padded) sequence; `valid`: tokens that may be attended to, the
    /// first ones.
    Umt5Encoder(Program& program, const format::Network& network, int tokens, int valid, bool half);

    Tensor hidden() const { return x_.tensor; }
    std::uint32_t layer_phase() const { return layer_phase_; }
    std::uint32_t final_phase() const { return final_phase_; }

    TextStates encode(program::Executor& executor, const format::Checkpoint& checkpoint,
                      const std::vector<int>& ids, const Between& between = {},
                      const std::function<void(int)>& after_layer = {}) const override;

    /// Bucket of a relative position key - query: bidirectional, logarithm in fp32 (umt5 fact 24).
    static int relative_bucket(int relative_position, int num_buckets, int max_distance);
    int bucket(int relative_position) const {
        return relative_bucket(relative_position, config_.num_buckets, config_.max_distance);
    }

  private:
    void build();
    void build_attention();
    void build_feed_forward();

    format::Umt5Config config_;
    Program& program_;
    int tokens_;
    int valid_;
    WeightSet layer_weights_, final_weights_;
    Matrix x_, normed_;
    std::uint32_t layer_phase_ = 0, final_phase_ = 0;
};

}  // namespace quantsparse::models
