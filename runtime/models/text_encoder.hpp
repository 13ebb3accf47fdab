// The face of every text encoder.
#pragma once

#include <functional>
#include <vector>

#include "models/weights.hpp"

namespace quantsparse::models {

struct TextStates {
    std::vector<float> rows;    ///< fp32 [tokens, width]; empty when cancelled
    std::vector<float> pooled;  ///< fp32 [pooled width]; empty for encoders that give none
};

/// Not for several threads at once.
class TextEncoder {
  public:
    virtual ~TextEncoder() = default;
    /// Runs the whole encoder on as many ids as it was built for. `after_layer(index)` lets tests
    /// look at intermediates.
    virtual TextStates encode(program::Executor& executor, const format::Checkpoint& checkpoint,
                              const std::vector<int>& ids, const Between& between = {},
                              const std::function<void(int)>& after_layer = {}) const = 0;
};

}  // namespace quantsparse::models
