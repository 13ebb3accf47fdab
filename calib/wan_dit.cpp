#include "calib/wan_dit.hpp"

#include <cmath>

#include "calib/attention.hpp"
#include "calib/tensors.hpp"
#include "format/networks/wan_dit.hpp"
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

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    return x * at::rsqrt(x.square().mean(-1, true) + eps) * weight;
}

/// Rotates adjacent pairs by the angle of their position (wan fact 7).
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines) {
    const auto pairs = x.view({x.size(0), x.size(1), -1, 2});
    const auto a = pairs.select(3, 0);
    const auto b = pairs.select(3, 1);
    return at::stack({a * cosines - b * sines, a * sines + b * cosines}, 3).view_as(x);
}

class WanDit final : public Transformer {
  public:
    explicit WanDit(const format::Component& component);
    /// Blocks read "context" [text_len, dim] after the text MLP, "e0" [6, dim] and "cosines",
    /// "sines" [tokens, 1, head_dim / 2]; the head "e" [dim].
    BlockState prepare(const TransformerInput& input) const override;
    at::Tensor run_block(const BlockWeights& weights, const BlockState& state,
                         const BlockMethods& methods) const override;
    at::Tensor prediction(const BlockState& state) const override;

  private:
    const at::Tensor& top(const std::string& name) const { return top_.at(name); }

    format::WanDitConfig config_;
    std::map<std::string, at::Tensor> top_;  ///< all that is in no block
};

WanDit::WanDit(const format::Component& component)
    : config_(component.network.config_as<format::WanDitConfig>()) {
    if (config_.sparse_linear) {
        throw Error(ErrorCode::unsupported,
                    "this transformer was trained with sparse-linear attention (it holds proj_l), "
                    "which can't be calibrated yet: run it as it is, or round its weights to 8 "
                    "bits while loading");
    }
    for (const auto& tensor : component.network.tensors) {
        if (!tensor.name.starts_with("blocks.")) {
            top_[tensor.name] = load_tensor(*component.checkpoint, tensor.name);
        }
    }
}

BlockState WanDit::prepare(const TransformerInput& input) const {
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
    const auto e = at::linear(hidden, top("time_embedding.2.weight"), top("time_embedding.2.bias"));
    state.head["e"] = e;
    state.given["e0"] =
        at::linear(at::silu(e), top("time_projection.1.weight"), top("time_projection.1.bias"))
            .view({6, config_.dim});

    // Padded with zeros before the MLP and attended to without a mask (wan fact 8).
    const auto& context = input.texts.at("context");
    const auto padded = at::constant_pad_nd(context, {0, 0, 0, config_.text_len - context.size(0)});
    state.given["context"] = at::linear(
        at::gelu(at::linear(padded, top("text_embedding.0.weight"), top("text_embedding.0.bias")),
                 "tanh"),
        top("text_embedding.2.weight"), top("text_embedding.2.bias"));

    const auto rope = rope_angles(grid, config_.head_dim());
    state.given["cosines"] = at::cos(rope).to(at::kFloat).unsqueeze(1);
    state.given["sines"] = at::sin(rope).to(at::kFloat).unsqueeze(1);
    return state;
}

at::Tensor WanDit::run_block(const BlockWeights& weights, const BlockState& state,
                             const BlockMethods& methods) const {
    const auto& config = config_;
    const auto& cosines = state.given.at("cosines");
    const auto& sines = state.given.at("sines");
    const std::array<std::int64_t, 1> width = {config.dim};
    const auto heads = [&](const at::Tensor& x) {
        return x.view({x.size(0), config.num_heads, config.head_dim()});
    };
    const auto normed = [&](const at::Tensor& x, const char* name) {
        return config.qk_norm ? rms_norm(x, weights.at(std::string(name) + ".weight"), config.eps)
                              : x;
    };
    // shift1, scale1, gate1 of self attention, shift2, scale2, gate2 of the ffn (wan fact 4)
    const auto modulation = weights.at("modulation").view({6, config.dim}) + state.given.at("e0");

    auto u =
        at::layer_norm(state.x, width, {}, {}, config.eps) * (1 + modulation[1]) + modulation[0];
    const auto qkv = methods.project("self_qkv", u);
    const auto q = rotate_pairs(heads(normed(qkv[0], "self_attn.norm_q")), cosines, sines);
    const auto k = rotate_pairs(heads(normed(qkv[1], "self_attn.norm_k")), cosines, sines);
    const auto v = heads(qkv[2]);
    auto mixed = methods.self_attention ? methods.self_attention(q, k, v) : attention(q, k, v);
    auto x = state.x + modulation[2] * methods.project("self_o", mixed)[0];

    u = config.cross_attn_norm ? at::layer_norm(x, width, weights.at("norm3.weight"),
                                                weights.at("norm3.bias"), config.eps)
                               : x;
    const auto cross_q = methods.project("cross_q", u)[0];
    const auto cross_kv = methods.project("cross_kv", state.given.at("context"));
    mixed = attention(heads(normed(cross_q, "cross_attn.norm_q")),
                      heads(normed(cross_kv[0], "cross_attn.norm_k")), heads(cross_kv[1]));
    x = x + methods.project("cross_o", mixed)[0];

    u = at::layer_norm(x, width, {}, {}, config.eps) * (1 + modulation[4]) + modulation[3];
    const auto hidden = at::gelu(methods.project("ffn_0", u)[0], "tanh");
    return x + modulation[5] * methods.project("ffn_2", hidden)[0];
}

at::Tensor WanDit::prediction(const BlockState& state) const {
    const std::array<std::int64_t, 1> width = {config_.dim};
    const auto modulation = top("head.modulation").view({2, config_.dim}) + state.head.at("e");
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

}  // namespace

std::unique_ptr<Transformer> make_wan_dit(const format::Component& component) {
    return std::make_unique<WanDit>(component);
}

}  // namespace quantsparse::calib
