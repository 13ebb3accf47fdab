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

// Scores of this many query rows at a time; bounds the memory of the probability map.
constexpr std::int64_t kAttentionRows = 512;

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    return x * at::rsqrt(x.square().mean(-1, true) + eps) * weight;
}

/// softmax(q k^T / sqrt(d)) v for q, k, v [tokens, heads, d]; returns [tokens, heads * d].
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto heads = q.transpose(0, 1);                 // [heads, Lq, d]
    const auto keys = k.transpose(0, 1).transpose(1, 2);  // [heads, d, Lk]
    const auto values = v.transpose(0, 1);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    std::vector<at::Tensor> parts;
    for (std::int64_t start = 0; start < q.size(0); start += kAttentionRows) {
        const auto count = std::min(kAttentionRows, q.size(0) - start);
        const auto scores = at::matmul(heads.narrow(1, start, count), keys) * scale;
        parts.push_back(at::matmul(at::softmax(scores, -1), values));
    }
    return at::cat(parts, 1).transpose(0, 1).reshape({q.size(0), -1});
}

/// Rotates adjacent pairs by the angle of their position (fact 7).
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines) {
    const auto pairs = x.view({x.size(0), x.size(1), -1, 2});
    const auto a = pairs.select(3, 0);
    const auto b = pairs.select(3, 1);
    return at::stack({a * cosines - b * sines, a * sines + b * cosines}, 3).view_as(x);
}

/// Angles [tokens, head_dim / 2] of the grid positions: head_dim splits into d - 4 (d / 6) for time
/// and 2 (d / 6) for rows and columns, each axis with its own ladder (fact 7).
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

std::string block_name(int block, const char* name) {
    return fmt::format("blocks.{}.{}", block, name);
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

struct WanDit::State {
    at::Tensor x;        ///< [tokens, dim], the residual stream
    at::Tensor context;  ///< [text_len, dim], after the text MLP
    at::Tensor e;        ///< [dim], what the head is modulated by
    at::Tensor e0;       ///< [6, dim], what the blocks are modulated by
    at::Tensor cosines;  ///< [tokens, 1, head_dim / 2]
    at::Tensor sines;
    std::array<std::int64_t, 3> grid{};
};

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

WanDit::Weights WanDit::load_block(int block) const {
    Weights weights;
    std::vector<std::string> names = {"modulation"};
    for (const auto group : kInputGroups) {
        for (const auto& linear : linears_of(group, block)) {
            const auto short_name = linear.substr(linear.find('.', 7) + 1);
            names.push_back(short_name + ".weight");
            names.push_back(short_name + ".bias");
        }
    }
    if (config_.qk_norm) {
        for (const char* name :
             {"self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k"}) {
            names.push_back(std::string(name) + ".weight");
        }
    }
    if (config_.cross_attn_norm) {
        names.insert(names.end(), {"norm3.weight", "norm3.bias"});
    }
    for (const auto& name : names) {
        weights[name] = load_tensor(checkpoint_, block_name(block, name.c_str()));
    }
    return weights;
}

WanDit::State WanDit::prepare(const DitInput& input) const {
    State state;
    const auto& patch = config_.patch_size;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        state.grid[axis] = input.latent.size(static_cast<std::int64_t>(axis) + 1) / patch[axis];
    }
    const auto& grid = state.grid;
    // Features in the order channel, time, row, column; tokens frame, row, column (fact 1).
    const auto patches =
        input.latent.view({config_.in_dim, grid[0], patch[0], grid[1], patch[1], grid[2], patch[2]})
            .permute({1, 3, 5, 0, 2, 4, 6})
            .reshape({grid[0] * grid[1] * grid[2], -1});
    state.x = at::linear(patches, top("patch_embedding.weight").view({config_.dim, -1}),
                         top("patch_embedding.bias"));

    const int half = config_.freq_dim / 2;
    const auto angles =
        input.timestep * at::exp(at::arange(half, at::kDouble) * (-std::log(10000.0) / half));
    const auto sinusoid = at::cat({at::cos(angles), at::sin(angles)}).to(at::kFloat);  // fact 2
    const auto hidden = at::silu(
        at::linear(sinusoid, top("time_embedding.0.weight"), top("time_embedding.0.bias")));
    state.e = at::linear(hidden, top("time_embedding.2.weight"), top("time_embedding.2.bias"));
    state.e0 = at::linear(at::silu(state.e), top("time_projection.1.weight"),
                          top("time_projection.1.bias"))
                   .view({6, config_.dim});

    // Padded with zeros before the MLP and attended to without a mask (fact 8).
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

void WanDit::run_block(int block, const Weights& weights, State& state, std::size_t input,
                       const Observer& observer) const {
    const std::array<std::int64_t, 1> width = {config_.dim};
    const auto observe = [&](InputGroup group, const at::Tensor& rows) {
        if (observer) {
            observer(input, block, group, rows.contiguous());
        }
    };
    const auto linear = [&](const at::Tensor& x, const std::string& name) {
        return at::linear(x, weights.at(name + ".weight"), weights.at(name + ".bias"));
    };
    const auto heads = [&](const at::Tensor& x) {
        return x.view({x.size(0), config_.num_heads, config_.head_dim()});
    };
    const auto normed = [&](const at::Tensor& x, const std::string& name) {
        return config_.qk_norm ? rms_norm(x, weights.at(name + ".weight"), config_.eps) : x;
    };
    // shift1, scale1, gate1 of self attention, shift2, scale2, gate2 of the ffn (fact 4)
    const auto modulation = weights.at("modulation").view({6, config_.dim}) + state.e0;

    auto u =
        at::layer_norm(state.x, width, {}, {}, config_.eps) * (1 + modulation[1]) + modulation[0];
    observe(InputGroup::self_qkv, u);
    const auto q = rotate_pairs(heads(normed(linear(u, "self_attn.q"), "self_attn.norm_q")),
                                state.cosines, state.sines);
    const auto k = rotate_pairs(heads(normed(linear(u, "self_attn.k"), "self_attn.norm_k")),
                                state.cosines, state.sines);
    auto mixed = attention(q, k, heads(linear(u, "self_attn.v")));
    observe(InputGroup::self_o, mixed);
    state.x = state.x + modulation[2] * linear(mixed, "self_attn.o");

    u = config_.cross_attn_norm ? at::layer_norm(state.x, width, weights.at("norm3.weight"),
                                                 weights.at("norm3.bias"), config_.eps)
                                : state.x;
    observe(InputGroup::cross_q, u);
    observe(InputGroup::cross_kv, state.context);
    mixed = attention(heads(normed(linear(u, "cross_attn.q"), "cross_attn.norm_q")),
                      heads(normed(linear(state.context, "cross_attn.k"), "cross_attn.norm_k")),
                      heads(linear(state.context, "cross_attn.v")));
    observe(InputGroup::cross_o, mixed);
    state.x = state.x + linear(mixed, "cross_attn.o");

    u = at::layer_norm(state.x, width, {}, {}, config_.eps) * (1 + modulation[4]) + modulation[3];
    observe(InputGroup::ffn_0, u);
    const auto hidden = at::gelu(linear(u, "ffn.0"), "tanh");
    observe(InputGroup::ffn_2, hidden);
    state.x = state.x + modulation[5] * linear(hidden, "ffn.2");
    if (!std::isfinite(state.x.sum().item<float>())) {  // NaN and infinity survive a sum
        throw Error(ErrorCode::non_finite,
                    fmt::format("block {} of the transformer gives NaN or infinity for a "
                                "calibration clip; the checkpoint is damaged or not a Wan2.1 model",
                                block));
    }
}

at::Tensor WanDit::finish(const State& state) const {
    const std::array<std::int64_t, 1> width = {config_.dim};
    const auto modulation = top("head.modulation").view({2, config_.dim}) + state.e;
    const auto u =
        at::layer_norm(state.x, width, {}, {}, config_.eps) * (1 + modulation[1]) + modulation[0];
    const auto& grid = state.grid;
    const auto& patch = config_.patch_size;
    // Head features in the order time, row, column, channel: not the mirror of the embedding (fact
    // 1).
    return at::linear(u, top("head.head.weight"), top("head.head.bias"))
        .view({grid[0], grid[1], grid[2], patch[0], patch[1], patch[2], config_.out_dim})
        .permute({6, 0, 3, 1, 4, 2, 5})
        .reshape({config_.out_dim, grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2]});
}

std::vector<at::Tensor> WanDit::forward(const std::vector<DitInput>& inputs,
                                        const Observer& observer,
                                        const std::function<void(int block)>& after_block) {
    const c10::InferenceMode no_gradients;
    std::vector<State> states;
    for (const auto& input : inputs) {
        states.push_back(prepare(input));
    }
    for (int block = 0; block < config_.num_layers; ++block) {
        Weights loaded;
        if (cache_blocks_ && cached_.find(block) == cached_.end()) {
            cached_[block] = load_block(block);
        } else if (!cache_blocks_) {
            loaded = load_block(block);
        }
        const Weights& weights = cache_blocks_ ? cached_.at(block) : loaded;
        in_parallel(states.size(), threads_, [&](std::size_t index) {
            run_block(block, weights, states[index], index, observer);
        });
        if (after_block) {
            after_block(block);
        }
    }
    std::vector<at::Tensor> velocities;
    for (const auto& state : states) {
        velocities.push_back(finish(state));
    }
    return velocities;
}

}  // namespace quantsparse::calib
