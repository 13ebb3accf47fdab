#include "calib/forward.hpp"

#include <fmt/format.h>

#include <cmath>

#include "calib/attention.hpp"
#include "calib/parallel.hpp"
#include "calib/registry.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

/// Of a transformer's linears in fp32.
std::uint64_t linear_bytes(const format::Network& network) {
    std::uint64_t bytes = 0;
    for (const auto& block : network.blocks) {
        for (const auto& linear : linears_of(block)) {
            bytes += 4 * static_cast<std::uint64_t>(linear.out_features) *
                     static_cast<std::uint64_t>(linear.in_features);
        }
    }
    return bytes;
}

}  // namespace

Forward::Forward(const format::Component& component, int threads, std::uint64_t cache_bytes)
    : component_(component),
      transformer_(make_transformer(component)),
      threads_(threads),
      cache_blocks_(linear_bytes(component.network) <= cache_bytes) {}

void Forward::run_block(int block, const BlockWeights& weights, BlockState& state,
                        std::size_t input, const Observer& observer) const {
    BlockMethods methods;
    methods.project = [&](std::string_view group, const at::Tensor& rows) {
        if (observer) {
            observer(input, block, group, rows.contiguous());
        }
        return project_exactly(weights, group, rows);
    };
    if (on_attention_) {
        methods.self_attention = [&](const at::Tensor& q, const at::Tensor& k,
                                     const at::Tensor& v) {
            on_attention_(input, block, state, q, k, v);
            return attention(q, k, v);
        };
    }
    state.x = transformer_->run_block(weights, state, methods);
    if (!std::isfinite(state.x.sum().item<float>())) {  // NaN and infinity survive a sum
        throw Error(ErrorCode::non_finite,
                    fmt::format("block {} of the transformer gives NaN or infinity for a "
                                "calibration clip; the checkpoint is damaged or of another model",
                                block));
    }
}

std::vector<at::Tensor> Forward::run(const std::vector<TransformerInput>& inputs,
                                     const Observer& observer,
                                     const std::function<void(int block)>& after_block,
                                     const BeforeBlocks& before_blocks) {
    const c10::InferenceMode no_gradients;
    std::vector<BlockState> states;
    for (const auto& input : inputs) {
        states.push_back(transformer_->prepare(input));
    }
    if (before_blocks) {
        before_blocks(states);
    }
    const int blocks = static_cast<int>(component_.network.blocks.size());
    for (int block = 0; block < blocks; ++block) {
        BlockWeights loaded;
        if (cache_blocks_ && cached_.find(block) == cached_.end()) {
            cached_[block] = load_block_weights(component_, block);
        } else if (!cache_blocks_) {
            loaded = load_block_weights(component_, block);
        }
        const BlockWeights& weights = cache_blocks_ ? cached_.at(block) : loaded;
        in_parallel(states.size(), threads_, [&](std::size_t index) {
            const c10::InferenceMode no_gradients_here;  // belongs to a thread
            run_block(block, weights, states[index], index, observer);
        });
        if (after_block) {
            after_block(block);
        }
    }
    std::vector<at::Tensor> predictions;
    for (const auto& state : states) {
        predictions.push_back(transformer_->prediction(state));
    }
    return predictions;
}

}  // namespace quantsparse::calib
