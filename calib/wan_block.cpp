#include "calib/wan_block.hpp"

#include <fmt/format.h>

#include <cmath>

#include "calib/attention.hpp"
#include "calib/networks.hpp"

namespace quantsparse::calib {
namespace {

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

}  // namespace

std::vector<std::string> short_names_of(InputGroup group) {
    std::vector<std::string> names;
    for (const auto& linear : linears_of(group, 0)) {
        names.push_back(linear.substr(std::string("blocks.0.").size()));
    }
    return names;
}

BlockWeights load_block_weights(const format::Checkpoint& checkpoint,
                                const format::WanDitConfig& config, int block) {
    std::vector<std::string> names = {"modulation"};
    for (const auto group : kInputGroups) {
        for (const auto& linear : short_names_of(group)) {
            names.push_back(linear + ".weight");
            names.push_back(linear + ".bias");
        }
    }
    if (config.qk_norm) {
        for (const char* name :
             {"self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k"}) {
            names.push_back(std::string(name) + ".weight");
        }
    }
    if (config.cross_attn_norm) {
        names.insert(names.end(), {"norm3.weight", "norm3.bias"});
    }
    BlockWeights weights;
    for (const auto& name : names) {
        weights[name] = load_tensor(checkpoint, fmt::format("blocks.{}.{}", block, name));
    }
    return weights;
}

std::vector<at::Tensor> project_exactly(const BlockWeights& weights, InputGroup group,
                                        const at::Tensor& rows) {
    std::vector<at::Tensor> outputs;
    for (const auto& name : short_names_of(group)) {
        outputs.push_back(
            at::linear(rows, weights.at(name + ".weight"), weights.at(name + ".bias")));
    }
    return outputs;
}

at::Tensor run_wan_block(const format::WanDitConfig& config, const BlockWeights& weights,
                         const BlockState& state, const BlockMethods& methods) {
    const std::array<std::int64_t, 1> width = {config.dim};
    const auto heads = [&](const at::Tensor& x) {
        return x.view({x.size(0), config.num_heads, config.head_dim()});
    };
    const auto normed = [&](const at::Tensor& x, const char* name) {
        return config.qk_norm ? rms_norm(x, weights.at(std::string(name) + ".weight"), config.eps)
                              : x;
    };
    // shift1, scale1, gate1 of self attention, shift2, scale2, gate2 of the ffn (wan fact 4)
    const auto modulation = weights.at("modulation").view({6, config.dim}) + state.e0;

    auto u =
        at::layer_norm(state.x, width, {}, {}, config.eps) * (1 + modulation[1]) + modulation[0];
    const auto qkv = methods.project(InputGroup::self_qkv, u);
    const auto q =
        rotate_pairs(heads(normed(qkv[0], "self_attn.norm_q")), state.cosines, state.sines);
    const auto k =
        rotate_pairs(heads(normed(qkv[1], "self_attn.norm_k")), state.cosines, state.sines);
    const auto v = heads(qkv[2]);
    auto mixed = methods.self_attention ? methods.self_attention(q, k, v) : attention(q, k, v);
    auto x = state.x + modulation[2] * methods.project(InputGroup::self_o, mixed)[0];

    u = config.cross_attn_norm ? at::layer_norm(x, width, weights.at("norm3.weight"),
                                                weights.at("norm3.bias"), config.eps)
                               : x;
    const auto cross_q = methods.project(InputGroup::cross_q, u)[0];
    const auto cross_kv = methods.project(InputGroup::cross_kv, state.context);
    mixed = attention(heads(normed(cross_q, "cross_attn.norm_q")),
                      heads(normed(cross_kv[0], "cross_attn.norm_k")), heads(cross_kv[1]));
    x = x + methods.project(InputGroup::cross_o, mixed)[0];

    u = at::layer_norm(x, width, {}, {}, config.eps) * (1 + modulation[4]) + modulation[3];
    const auto hidden = at::gelu(methods.project(InputGroup::ffn_0, u)[0], "tanh");
    return x + modulation[5] * methods.project(InputGroup::ffn_2, hidden)[0];
}

}  // namespace quantsparse::calib
