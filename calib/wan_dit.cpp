#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

#include "calib/networks.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

/// Angles [tokens, head_dim / 2] of the grid positions: head_dim splits into d - 4 (d / 6) for time
/// and 2 (d / 6) for rows and columns, each axis with its own ladder (wan fact 7).
at::Tensor rope_angles(std::array<std::int64_t, 3> grid, int head_dim) {
    const int side = 2 * (head_dim / 6);
    const std::array<int, 3> widths = {head_dim - 2 * side, side, side};
    std::vector<at::Tensor> parts;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        const auto exponents =
            at::arange(0, widths[axis], 2, at::kDouble) * (-std::log(10000.0) / widths[axis]);
        auto angles = at::outer(at::arange(grid[axis], at::kDouble), at::exp(exponents));
        std::array<std::int64_t, 4> shape = {1, 1, 1, angles.size(1)};
        shape[axis] = grid[axis];
        parts.push_back(angles.view(shape).expand({grid[0], grid[1], grid[2], angles.size(1)}));
    }
    return at::cat(parts, 3).reshape({grid[0] * grid[1] * grid[2], -1});
}

/// Runs body(0) ... body(count - 1) on up to `threads` threads; rethrows the first exception.
void in_parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& body) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const auto work = [&] {
        const c10::InferenceMode no_gradients;  // belongs to a thread
        try {
            for (std::size_t index = next++; index < count; index = next++) {
                body(index);
            }
        } catch (...) {
            const std::lock_guard lock(failure_mutex);
            failure = failure ? failure : std::current_exception();
        }
    };
    std::vector<std::thread> workers;
    for (std::size_t i = 1; i < std::min(count, static_cast<std::size_t>(std::max(threads, 1)));
         ++i) {
        workers.emplace_back(work);
    }
    work();
    for (auto& worker : workers) {
        worker.join();
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
}

}  // namespace

at::Tensor load_tensor(const format::Checkpoint& checkpoint, const std::string& name) {
    const auto& view = checkpoint.at(name);
    auto tensor = at::empty(view.shape, at::kFloat);
    format::to_float(view, {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())});
    if (!at::isfinite(tensor).all().item<bool>()) {
        throw Error(ErrorCode::non_finite,
                    fmt::format("tensor '{}' of '{}' holds NaN or infinity; the checkpoint is "
                                "damaged, download it again",
                                name, checkpoint.path().string()));
    }
    return tensor;
}

std::span<const float> values_of(const at::Tensor& tensor) {
    return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

WanDit::WanDit(const format::Checkpoint& checkpoint, const format::WanDitConfig& config,
               int threads, std::uint64_t cache_bytes)
    : checkpoint_(checkpoint), config_(config), threads_(threads) {
    const auto dim = static_cast<std::uint64_t>(config.dim);
    const auto block_bytes =
        4 * (8 * dim * dim + 2 * dim * static_cast<std::uint64_t>(config.ffn_dim));
    cache_blocks_ = block_bytes * static_cast<std::uint64_t>(config.num_layers) <= cache_bytes;
    for (const char* name :
         {"patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0",
          "time_embedding.2", "time_projection.1", "head.head"}) {
        for (const char* part : {".weight", ".bias"}) {
            const auto full = std::string(name) + part;
            top_[full] = load_tensor(checkpoint, full);
        }
    }
    top_["head.modulation"] = load_tensor(checkpoint, "head.modulation");
}

at::Tensor WanDit::top(const std::string& name) const {
    return top_.at(name);
}

BlockState WanDit::prepare(const DitInput& input) const {
    BlockState state;
    const auto& patch = config_.patch_size;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        state.grid[axis] = input.latent.size(static_cast<std::int64_t>(axis) + 1) / patch[axis];
    }
    const auto& grid = state.grid;
    // Features in the order channel, time, row, column; tokens frame, row, column (wan fact 1).
    const auto patches =
        input.latent.view({config_.in_dim, grid[0], patch[0], grid[1], patch[1], grid[2], patch[2]})
            .permute({1, 3, 5, 0, 2, 4, 6})
            .reshape({grid[0] * grid[1] * grid[2], -1});
    state.x = at::linear(patches, top("patch_embedding.weight").view({config_.dim, -1}),
                         top("patch_embedding.bias"));

    const int half = config_.freq_dim / 2;
    const auto angles =
        input.timestep * at::exp(at::arange(half, at::kDouble) * (-std::log(10000.0) / half));
    const auto sinusoid = at::cat({at::cos(angles), at::sin(angles)}).to(at::kFloat);  // wan fact 2
    const auto hidden = at::silu(
        at::linear(sinusoid, top("time_embedding.0.weight"), top("time_embedding.0.bias")));
    state.e = at::linear(hidden, top("time_embedding.2.weight"), top("time_embedding.2.bias"));
    state.e0 = at::linear(at::silu(state.e), top("time_projection.1.weight"),
                          top("time_projection.1.bias"))
                   .view({6, config_.dim});

    // Padded with zeros before the MLP and attended to without a mask (wan fact 8).
    const auto padded =
        at::constant_pad_nd(input.context, {0, 0, 0, config_.text_len - input.context.size(0)});
    state.context = at::linear(
        at::gelu(at::linear(padded, top("text_embedding.0.weight"), top("text_embedding.0.bias")),
                 "tanh"),
        top("text_embedding.2.weight"), top("text_embedding.2.bias"));

    const auto rope = rope_angles(grid, config_.head_dim());
    state.cosines = at::cos(rope).to(at::kFloat).unsqueeze(1);
    state.sines = at::sin(rope).to(at::kFloat).unsqueeze(1);
    return state;
}

void WanDit::run_block(int block, const BlockWeights& weights, BlockState& state, std::size_t input,
                       const Observer& observer) const {
    BlockMethods methods;
    methods.project = [&](InputGroup group, const at::Tensor& rows) {
        if (observer) {
            observer(input, block, group, rows.contiguous());
        }
        return project_exactly(weights, group, rows);
    };
    state.x = run_wan_block(config_, weights, state, methods);
    if (!std::isfinite(state.x.sum().item<float>())) {  // NaN and infinity survive a sum
        throw Error(ErrorCode::non_finite,
                    fmt::format("block {} of the transformer gives NaN or infinity for a "
                                "calibration clip; the checkpoint is damaged or not a Wan2.1 model",
                                block));
    }
}

at::Tensor WanDit::velocity(const BlockState& state) const {
    const std::array<std::int64_t, 1> width = {config_.dim};
    const auto modulation = top("head.modulation").view({2, config_.dim}) + state.e;
    const auto u =
        at::layer_norm(state.x, width, {}, {}, config_.eps) * (1 + modulation[1]) + modulation[0];
    const auto& grid = state.grid;
    const auto& patch = config_.patch_size;
    // Head features in the order time, row, column, channel: not the mirror of the embedding
    // (wan fact 1).
    return at::linear(u, top("head.head.weight"), top("head.head.bias"))
        .view({grid[0], grid[1], grid[2], patch[0], patch[1], patch[2], config_.out_dim})
        .permute({6, 0, 3, 1, 4, 2, 5})
        .reshape({config_.out_dim, grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2]});
}

std::vector<at::Tensor> WanDit::forward(const std::vector<DitInput>& inputs,
                                        const Observer& observer,
                                        const std::function<void(int block)>& after_block,
                                        const BeforeBlocks& before_blocks) {
    const c10::InferenceMode no_gradients;
    std::vector<BlockState> states;
    for (const auto& input : inputs) {
        states.push_back(prepare(input));
    }
    if (before_blocks) {
        before_blocks(states);
    }
    for (int block = 0; block < config_.num_layers; ++block) {
        BlockWeights loaded;
        if (cache_blocks_ && cached_.find(block) == cached_.end()) {
            cached_[block] = load_block_weights(checkpoint_, config_, block);
        } else if (!cache_blocks_) {
            loaded = load_block_weights(checkpoint_, config_, block);
        }
        const BlockWeights& weights = cache_blocks_ ? cached_.at(block) : loaded;
        in_parallel(states.size(), threads_, [&](std::size_t index) {
            run_block(block, weights, states[index], index, observer);
        });
        if (after_block) {
            after_block(block);
        }
    }
    std::vector<at::Tensor> velocities;
    for (const auto& state : states) {
        velocities.push_back(velocity(state));
    }
    return velocities;
}

}  // namespace quantsparse::calib
